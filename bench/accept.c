// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The do-nothing baseline: a C loop that accepts every packet of an NFQUEUE. What a firewall in user space costs
 * beyond this is its own doing.
 *
 *   accept QUEUE BATCH RANGE GSO
 *
 * BATCH 1 answers each packet by a message of its own; more than that answers up to BATCH packets by one, and at once
 * when no more wait. RANGE is how many bytes of a packet the kernel copies; GSO 1 takes large packets whole.
 * Prints "ready" when the queue is bound, and runs until it is killed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LENGTH 8192          /* packets that the queue holds, as ctfw has it */
#define BUFFER (128 << 20)   /* bytes that the socket holds, likewise */

struct request {
    struct nlmsghdr header;
    struct nfgenmsg nfgen;
    char attributes[64];
};

static int sock;

static void begin(struct request *request, int kind, int queue)
{
    memset(request, 0, sizeof *request);
    request->header.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | kind;
    request->header.nlmsg_flags = NLM_F_REQUEST;
    request->header.nlmsg_len = NLMSG_LENGTH(sizeof request->nfgen);
    request->nfgen.res_id = htons(queue);
}

static void *append(struct request *request, int type, const void *data, int size)
{
    struct nlattr *attribute = (void *)((char *)request + request->header.nlmsg_len);
    attribute->nla_type = type;
    attribute->nla_len = NLA_HDRLEN + size;
    memcpy((char *)attribute + NLA_HDRLEN, data, size);
    request->header.nlmsg_len += NLA_ALIGN(attribute->nla_len);
    return (char *)attribute + NLA_HDRLEN;
}

static void transmit(const struct request *request)
{
    while (send(sock, request, request->header.nlmsg_len, 0) < 0)
        if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
            perror("accept: send");
            exit(1);
        }
}

static void configure(int queue, int range, int gso)
{
    struct request request;
    struct nfqnl_msg_config_cmd bind_queue = {.command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET)};
    struct nfqnl_msg_config_params copy = {htonl(range), NFQNL_COPY_PACKET};
    unsigned length = htonl(LENGTH), flags = htonl(NFQA_CFG_F_GSO);

    begin(&request, NFQNL_MSG_CONFIG, queue);
    append(&request, NFQA_CFG_CMD, &bind_queue, sizeof bind_queue);
    transmit(&request);
    begin(&request, NFQNL_MSG_CONFIG, queue);
    append(&request, NFQA_CFG_QUEUE_MAXLEN, &length, sizeof length);
    if (gso) {
        append(&request, NFQA_CFG_FLAGS, &flags, sizeof flags);
        append(&request, NFQA_CFG_MASK, &flags, sizeof flags);
    }
    append(&request, NFQA_CFG_PARAMS, &copy, sizeof copy);
    transmit(&request);
}

/* The number of the packet in one message; 0 when it carries none. */
static unsigned packet_id(struct nlmsghdr *message)
{
    char *at = (char *)message + NLMSG_LENGTH(sizeof(struct nfgenmsg));
    char *end = (char *)message + message->nlmsg_len;

    if (message->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
        return 0;
    while (at < end) {
        struct nlattr *attribute = (void *)at;
        if ((attribute->nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR)
            return ntohl(((struct nfqnl_msg_packet_hdr *)(at + NLA_HDRLEN))->packet_id);
        at += NLA_ALIGN(attribute->nla_len);
    }
    return 0;
}

static void serve(int queue, int batch)
{
    static char buffer[1 << 17];
    struct request verdict;
    struct nfqnl_msg_verdict_hdr accepted = {.verdict = htonl(NF_ACCEPT)}, *head;
    int pending = 0;

    begin(&verdict, batch > 1 ? NFQNL_MSG_VERDICT_BATCH : NFQNL_MSG_VERDICT, queue);
    head = append(&verdict, NFQA_VERDICT_HDR, &accepted, sizeof accepted);
    for (;;) {
        int left = recv(sock, buffer, sizeof buffer, pending ? MSG_DONTWAIT : 0);
        struct nlmsghdr *message = (void *)buffer;

        if (left < 0 && pending) { /* nothing more waits: do not let the others wait either */
            transmit(&verdict);
            pending = 0;
        }
        for (; left > 0 && NLMSG_OK(message, (unsigned)left); message = NLMSG_NEXT(message, left)) {
            unsigned id = packet_id(message);
            if (!id)
                continue;
            head->id = htonl(id);
            if (++pending >= batch) {
                transmit(&verdict);
                pending = 0;
            }
        }
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    int size = BUFFER, one = 1;

    if (argc != 5) {
        fprintf(stderr, "usage: accept QUEUE BATCH RANGE GSO\n");
        return 2;
    }
    sock = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    if (sock < 0 || bind(sock, (void *)&address, sizeof address)) {
        perror("accept: socket");
        return 1;
    }
    if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(sock, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof one);
    configure(atoi(argv[1]), atoi(argv[3]), atoi(argv[4]));
    puts("ready");
    fflush(stdout);
    serve(atoi(argv[1]), atoi(argv[2]));
}
