"""What hurts people with systems of this kind, and the tests that show that ctfw does not hurt them so.

Each row is a complaint as users of other firewalls make it, in the words of the issues that they wrote. The tests stand
where the thing itself is tested; test_rows.py says whether they are still there.
"""

from typing import Final

ROWS: Final[dict[str, tuple[str, ...]]] = {
    "daemon down: all open or all shut, and nobody chose": (
        "field/test_failure_policy.py::test_daemon_down_is_what_the_policy_says",
        "boot/test_failure.py::test_in_a_crash_loop_packets_wait_and_bypass_does_not_fire",
        "package/test_deb.py::stopped_it_stays_shut_until_the_hook_is_removed",
    ),
    "alive but stuck: traffic dead until somebody restarts it": (
        "field/test_failure_policy.py::test_alive_but_stuck_ends_as_the_policy_says",
        "boot/test_failure.py::test_the_watchdog_ends_what_stands_still_and_what_waited_is_judged",
        "daemon/test_run.py::test_the_watchdog_is_not_fed_while_verdicts_cannot_leave",
    ),
    "an internal error opens or shuts the gateway": (
        "field/test_failure_policy.py::test_a_rule_engine_that_raises_gives_the_verdict_of_the_policy",
    ),
    "a rule change leaves old flows alive": (
        "ruleset/test_existing.py::test_recheck_ends_what_the_new_rules_do_not_open_whoever_speaks_first",
        "daemon/test_set_command.py::test_what_becomes_of_open_connections_is_said_at_each_reload",
    ),
    "a reload cuts traffic": (
        "field/test_reload.py::test_reload_cuts_no_traffic",
        "daemon/test_reload.py::test_packets_and_questions_do_not_wait_for_a_reload",
    ),
    "a restart cuts traffic": (
        "boot/test_restart.py::test_200_of_200_datagrams_survive_a_restart_and_50_of_50_a_sigkill",
        "package/test_deb.py::an_upgrade_keeps_an_open_connection",
    ),
    "locked out over SSH": (
        "daemon/test_trial.py::test_rules_that_nobody_confirms_go_although_the_client_is_gone",
        "hook/test_traffic.py::test_ssh_from_the_named_networks_works_without_ctfw_and_no_other",
        "lint/test_golden.py::test_golden",  # locked-out.yaml, buried-ssh.yaml
    ),
    "which rule did this?": (
        "tools/test_explain_command.py::test_the_running_engine_is_asked_and_not_changed",
        "tools/test_explain.py::test_an_invalid_packet_is_told_in_numbers",
        "daemon/test_run.py::test_invalid_packets_are_logged_in_the_words_of_iptables",
    ),
    "queue overrun without a figure": (
        "field/test_failure_policy.py::test_queue_overrun_is_counted",
        "field/test_failure_policy.py::test_what_overruns_the_socket_meets_the_policy_as_well",
        "daemon/test_run.py::test_losses_in_the_socket_are_counted_exactly",
    ),
    "state table full: silent drop": (
        "daemon/test_run.py::test_a_full_table_is_logged_in_the_words_of_the_kernel",
        "engine/test_table.py::test_the_oldest_unassured_connection_gives_way_when_the_table_is_full",
        "daemon/test_status.py::test_a_table_that_is_nearly_full_degrades",
    ),
    "false INVALID": (
        "engine/test_tcp.py::test_liberal_lets_every_window_pass",
        "ruleset/test_effects.py::test_track_liberal_holds_nobody_to_the_window_and_stays_with_the_connection",
        "tools/test_explain.py::test_the_arithmetic_of_a_segment_beyond_the_window",
    ),
    "asymmetric routing": (
        "hook/test_doctor.py::test_answers_that_take_another_way_are_told_by_interface",
        "ruleset/test_effects.py::test_track_loose_picks_up_what_the_settings_would_not",
    ),
    "big lists are slow": ("config/test_load.py::test_a_hundred_thousand_prefixes_load_fast",),
    "dynamic bans lost": (
        "daemon/test_set_command.py::test_a_ban_holds_at_once_ends_by_hand_and_outlives_reload_and_restart",
    ),
    "rule order surprises": (
        "lint/test_golden.py::test_golden",  # hidden.yaml, never-matches.yaml
        "lint/test_golden.py::test_check_advises",
    ),
    "cryptic start errors": (
        "daemon/test_run.py::test_a_second_daemon_on_the_queue_is_told_who_has_it",
        "daemon/test_run.py::test_without_rights_it_says_which_are_needed",
        "hook/test_doctor.py::test_nothing_installed_and_nobody_running",
    ),
    "boot gap before the firewall is up": (
        "package/test_deb.py::the_early_unit_came_before_the_network_and_the_service",
        "package/test_deb.py::at_boot_a_broken_file_does_not_open_the_gateway",
    ),
    "other software changes the rules": (
        "hook/test_apply.py::test_other_software_changes_the_rules",
        "hook/test_apply.py::test_rules_of_others_stay_byte_for_byte",
        "package/test_deb.py::what_a_flush_removed_is_put_back_with_a_word_in_the_journal",
    ),
    "metrics missing or unbounded": (
        "daemon/test_metrics.py::test_names_keep_prometheus_rules_and_labels_are_bounded",
    ),
    "memory creep": (
        "field/test_soak.py::test_memory_does_not_creep",
        "tools/test_difference.py::test_memory_is_bounded_and_what_is_beyond_is_counted",
    ),
    "REJECT wanted, not silence": ("hook/test_reject.py::test_callers_are_told_at_once_in_every_chain",),
}
