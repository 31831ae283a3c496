// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Traffic for the gateway between two machines, in C so that the ends cost as little as they can.
 *
 *   traffic echo PORT FLOWS            server: UDP on FLOWS ports from PORT on, and TCP on PORT
 *   traffic load HOST PORT FLOWS SIZE  client: datagrams over FLOWS flows; see below
 *   traffic ping HOST PORT COUNT       client: one datagram at a time; prints p50 and p99 in nanoseconds
 *   traffic pace HOST PORT SECONDS RATE  client: so many datagrams a second, answered or not; prints p50, p99.9 and the
 *                                      longest in nanoseconds, and how many were never answered
 *   traffic connect HOST PORT SECONDS  client: connect, byte there and back, close; prints how many a second
 *   traffic stream HOST PORT SECONDS   client: one TCP stream; prints bits a second
 *   traffic mirror                     server: answers datagrams to any port of any address that is routed to it
 *   traffic crowd HOST FLOWS SIZE      client: as load, to so many ports of HOST and the addresses behind it, in no order
 *
 * load first has every flow answered once, so that all are established, and says "ready". Then each line on its input
 * is two numbers: so many datagrams, unanswered, and how many a second, 0 for as fast as they can go. They go in bursts
 * of 32; "sent" says that they are out.
 *
 * The first byte says what the server does: 'e' wants an echo, 's' of a TCP connection takes all that comes and
 * answers with the number of bytes when it ends; other datagrams are swallowed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MOST_FLOWS 1024
#define BURST 32
#define PORTS 50000 /* of an address of a crowd */

static char buffer[1 << 17];

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int fail(const char *what)
{
    perror(what);
    exit(1);
}

static int open_socket(int type, const char *host, int port, int listens)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval patience = {2, 0};
    int one = 1, sock = socket(AF_INET, type, 0);

    inet_aton(host, &address.sin_addr);
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (listens) {
        if (bind(sock, (void *)&address, sizeof address))
            fail("traffic: bind");
        return sock;
    }
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(sock, (void *)&address, sizeof address)) {
        close(sock);
        return -1;
    }
    return sock;
}

static void serve_connection(int sock)
{
    struct timeval patience = {2, 0};
    long bytes = 0;
    int got;

    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    got = recv(sock, buffer, 1, 0);

    if (got == 1 && *buffer == 's') {
        while ((got = recv(sock, buffer, sizeof buffer, 0)) > 0)
            bytes += got;
        send(sock, &bytes, sizeof bytes, MSG_NOSIGNAL);
    } else if (got == 1) {
        send(sock, buffer, 1, MSG_NOSIGNAL);
        recv(sock, buffer, 1, 0); /* until it closes */
    }
    close(sock);
}

static void echo(int port, int flows)
{
    static struct pollfd ends[MOST_FLOWS + 1];

    for (int i = 0; i < flows; i++)
        ends[i] = (struct pollfd){open_socket(SOCK_DGRAM, "0.0.0.0", port + i, 1), POLLIN, 0};
    ends[flows] = (struct pollfd){open_socket(SOCK_STREAM, "0.0.0.0", port, 1), POLLIN, 0};
    listen(ends[flows].fd, 1024);
    puts("ready");
    fflush(stdout);
    for (;;) {
        poll(ends, flows + 1, -1);
        for (int i = 0; i < flows; i++) {
            struct sockaddr_in from;
            socklen_t size = sizeof from;
            if (!(ends[i].revents & POLLIN))
                continue;
            int got = recvfrom(ends[i].fd, buffer, sizeof buffer, MSG_DONTWAIT, (void *)&from, &size);
            if (got > 0 && *buffer == 'e')
                sendto(ends[i].fd, buffer, got, 0, (void *)&from, size);
        }
        if (ends[flows].revents & POLLIN)
            serve_connection(accept(ends[flows].fd, NULL, NULL));
    }
}

static int load(const char *host, int port, int flows, int size)
{
    static struct mmsghdr burst[BURST];
    static struct sockaddr_in to[BURST];
    struct iovec data = {buffer, size};
    struct timeval patience = {2, 0};
    int sock = socket(AF_INET, SOCK_DGRAM, 0), next = 0;
    long count, rate;

    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (int i = 0; i < BURST; i++) {
        to[i].sin_family = AF_INET;
        inet_aton(host, &to[i].sin_addr);
        burst[i].msg_hdr = (struct msghdr){&to[i], sizeof to[i], &data, 1, NULL, 0, 0};
    }
    for (int flow = 0; flow < flows; flow++) {
        to[0].sin_port = htons(port + flow);
        *buffer = 'e';
        if (sendto(sock, buffer, size, 0, (void *)&to[0], sizeof to[0]) != size || recv(sock, buffer, size, 0) != size)
            return fail("traffic: no echo");
    }
    *buffer = 'x';
    puts("ready");
    fflush(stdout);
    while (scanf("%ld %ld", &count, &rate) == 2) {
        long begun = now(), sent = 0;
        while (sent < count) {
            for (int i = 0; i < BURST; i++)
                to[i].sin_port = htons(port + next++ % flows);
            int more = sendmmsg(sock, burst, BURST, 0);
            sent += more > 0 ? more : 0;
            while (rate && (now() - begun) / 1e9 * rate < sent)
                ; /* a sleep would be longer than a burst lasts */
        }
        puts("sent");
        fflush(stdout);
    }
    return 0;
}

/* Where flow number i goes. */
static struct sockaddr_in place(struct in_addr first, int i)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(10000 + i % PORTS)};
    to.sin_addr.s_addr = htonl(ntohl(first.s_addr) + i / PORTS);
    return to;
}

static int crowd(const char *host, int flows, int size)
{
    static struct mmsghdr burst[BURST];
    static struct sockaddr_in to[BURST];
    struct iovec data = {buffer, size};
    struct in_addr first;
    unsigned long dice = 1;
    char *answered = calloc(flows, 1);
    int sock = socket(AF_INET, SOCK_DGRAM, 0), missing = flows, large = 1 << 24;
    long count, rate;

    inet_aton(host, &first);
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &large, sizeof large);
    *buffer = 'e';
    for (int turn = 0; turn < 20 && missing; turn++) /* what was lost on the way is asked again */
        for (int flow = 0; flow < flows; flow++) {
            struct sockaddr_in peer = place(first, flow);
            socklen_t length = sizeof peer;
            char got[64];
            if (!answered[flow])
                sendto(sock, buffer, size, 0, (void *)&peer, length);
            if (flow % BURST && flow < flows - 1)
                continue;
            usleep(flow < flows - 1 ? 300 : 200000);
            while (recvfrom(sock, got, sizeof got, MSG_DONTWAIT, (void *)&peer, &length) > 0) {
                long from = (ntohl(peer.sin_addr.s_addr) - ntohl(first.s_addr)) * (long)PORTS + ntohs(peer.sin_port) - 10000;
                if (from >= 0 && from < flows && !answered[from]) {
                    answered[from] = 1;
                    missing--;
                }
            }
        }
    if (missing)
        return fail("traffic: no echo");
    for (int i = 0; i < BURST; i++)
        burst[i].msg_hdr = (struct msghdr){&to[i], sizeof to[i], &data, 1, NULL, 0, 0};
    *buffer = 'x';
    puts("ready");
    fflush(stdout);
    while (scanf("%ld %ld", &count, &rate) == 2) {
        long begun = now(), sent = 0;
        while (sent < count) {
            for (int i = 0; i < BURST; i++) {
                dice = dice * 6364136223846793005UL + 1442695040888963407UL;
                to[i] = place(first, (dice >> 33) % flows);
            }
            int more = sendmmsg(sock, burst, BURST, 0);
            sent += more > 0 ? more : 0;
            while (rate && (now() - begun) / 1e9 * rate < sent)
                ;
        }
        puts("sent");
        fflush(stdout);
    }
    return 0;
}

static int mirror(void)
{
    int sock = socket(AF_INET, SOCK_RAW, IPPROTO_UDP), large = 1 << 24, on = 1, got;

    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &large, sizeof large);
    setsockopt(sock, IPPROTO_IP, IP_HDRINCL, &on, sizeof on);
    puts("ready");
    fflush(stdout);
    while ((got = recv(sock, buffer, sizeof buffer, 0)) >= 0) {
        struct iphdr *ip = (void *)buffer;
        struct udphdr *udp = (void *)(buffer + ip->ihl * 4);
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = ip->saddr};
        unsigned short port = udp->source;
        if (got <= ip->ihl * 4 + 8 || ((char *)udp)[8] != 'e')
            continue;
        ip->saddr = ip->daddr;
        ip->daddr = to.sin_addr.s_addr;
        ip->ttl = 64;
        udp->source = udp->dest;
        udp->dest = port;
        udp->check = 0;
        sendto(sock, buffer, got, 0, (void *)&to, sizeof to);
    }
    return fail("traffic: recv");
}

static int by_value(const void *a, const void *b)
{
    long x = *(const long *)a, y = *(const long *)b;
    return x < y ? -1 : x > y;
}

static int ping(const char *host, int port, int count)
{
    long *took = calloc(count, sizeof *took);
    int sock = open_socket(SOCK_DGRAM, host, port, 0), answered = 0;

    for (int i = 0; i < count; i++) {
        char sent[8] = {'e'}, got[8];
        long begun = now();
        memcpy(sent + 1, &i, sizeof i);
        send(sock, sent, sizeof sent, 0);
        while (recv(sock, got, sizeof got, 0) == sizeof got)
            if (!memcmp(sent, got, sizeof got)) {
                took[answered++] = now() - begun;
                break;
            }
    }
    if (answered < count / 2)
        return fail("traffic: no answers");
    qsort(took, answered, sizeof *took, by_value);
    printf("%ld %ld\n", took[answered / 2], took[answered * 99L / 100]);
    return 0;
}

static int pace(const char *host, int port, double seconds, long rate)
{
    long count = (long)(seconds * rate), step = 1000000000L / rate, answered = 0;
    long *sent = calloc(count, sizeof *sent), *took = calloc(count, sizeof *took);
    int sock = open_socket(SOCK_DGRAM, host, port, 0);
    long begun = now(), end = begun + count * step + 10000000000L, next = 0, number;

    while (answered < count && now() < end) {
        char data[9] = {'e'};
        long left = next < count ? begun + next * step - now() : end - now();
        struct pollfd readable = {sock, POLLIN, 0};
        struct timespec wait = {left > 0 ? left / 1000000000L : 0, left > 0 ? left % 1000000000L : 0};
        if (next < count && left <= 0) {
            memcpy(data + 1, &next, sizeof next);
            sent[next++] = now();
            send(sock, data, sizeof data, 0);
            continue;
        }
        if (ppoll(&readable, 1, &wait, NULL) > 0 && recv(sock, data, sizeof data, MSG_DONTWAIT) == sizeof data) {
            memcpy(&number, data + 1, sizeof number);
            if (number >= 0 && number < count)
                took[answered++] = now() - sent[number];
        }
    }
    if (!answered)
        return fail("traffic: no answers");
    qsort(took, answered, sizeof *took, by_value);
    printf("%ld %ld %ld %ld\n", took[answered / 2], took[answered * 999L / 1000], took[answered - 1], count - answered);
    return 0;
}

static int connections(const char *host, int port, double seconds)
{
    struct linger at_once = {1, 0}; /* a reset: no end of a connection waits in TIME_WAIT */
    long begun = now(), end = begun + (long)(seconds * 1e9), done = 0, failed = 0;

    while (now() < end) {
        int sock = open_socket(SOCK_STREAM, host, port, 0);
        if (sock >= 0 && send(sock, "e", 1, MSG_NOSIGNAL) == 1 && recv(sock, buffer, 1, 0) == 1)
            done++;
        else
            failed++;
        if (sock >= 0) {
            setsockopt(sock, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            close(sock);
        }
    }
    printf("%.0f %ld\n", done * 1e9 / (now() - begun), failed);
    return 0;
}

static int stream(const char *host, int port, double seconds)
{
    int sock = open_socket(SOCK_STREAM, host, port, 0);
    long begun = now(), end = begun + (long)(seconds * 1e9), bytes = 0;
    char *first = "s";

    if (sock < 0)
        return fail("traffic: connect");
    send(sock, first, 1, 0);
    while (now() < end)
        if (send(sock, buffer, sizeof buffer, MSG_NOSIGNAL) < 0)
            return fail("traffic: send");
    shutdown(sock, SHUT_WR);
    if (recv(sock, &bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes)
        return fail("traffic: no count");
    printf("%.0f\n", bytes * 8e9 / (now() - begun));
    return 0;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";

    if (!strcmp(mode, "mirror"))
        return mirror();
    if (!strcmp(mode, "crowd") && argc > 4)
        return crowd(argv[2], atoi(argv[3]), atoi(argv[4]));
    if (!strcmp(mode, "echo") && argc > 3)
        echo(atoi(argv[2]), atoi(argv[3]));
    if (!strcmp(mode, "load") && argc > 5)
        return load(argv[2], atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
    if (!strcmp(mode, "ping") && argc > 4)
        return ping(argv[2], atoi(argv[3]), atoi(argv[4]));
    if (!strcmp(mode, "pace") && argc > 5)
        return pace(argv[2], atoi(argv[3]), atof(argv[4]), atol(argv[5]));
    if (!strcmp(mode, "connect") && argc > 4)
        return connections(argv[2], atoi(argv[3]), atof(argv[4]));
    if (!strcmp(mode, "stream") && argc > 4)
        return stream(argv[2], atoi(argv[3]), atof(argv[4]));
    fprintf(stderr, "usage: see the head of traffic.c\n");
    return 2;
}
