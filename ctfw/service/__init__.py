"""What surrounds the packet loop in the daemon: the queue's set-up, control socket, log, notifications, record.

Nothing in here may keep the loop waiting: every file knows what it does when the other side is slow.
"""
