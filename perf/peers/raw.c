// Plain UDP: what the network gives to whoever repairs nothing.
//
// --kind mmsg     one message a datagram, what is due in one sendmmsg
//        packed   as many messages a datagram as are due and fit in 1400 bytes
//        gso      packed, and up to 64 datagrams a call (UDP_SEGMENT; UDP_GRO at the receivers)
//        unicast  one message a datagram, to each receiver of --to in turn (receiver R's port is --port + R)
//
// An unpaced sender has no back-pressure of its own and would measure losses. Receivers' progress on the board is its credit:
// CREDIT datagrams ahead of the slowest, which fit in a receive buffer of 4 MiB. If nobody moves for 100 ms it goes on.
#include "common.h"
#include <netinet/udp.h>
#include <sys/epoll.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define BATCH 64
#define CREDIT 1500
#define DATAGRAM_MAX 1400
#define GRO_MAX 65535
#define TRAIN_BYTES_MAX 65000

static void wait_credit(Run *run, uint64_t next, uint64_t credit) {
    if (run->rate > 0) return;
    uint64_t least = least_reached(run), moved = now_ns();
    while (next > least + credit) {
        sleep_ns(50000);
        uint64_t again = least_reached(run), now = now_ns();
        if (again != least) moved = now;
        else if (now > moved + 100000000) return;
        least = again;
    }
}

static void send_all(Run *run) {
    bool is_gso = !strcmp(run->kind, "gso"), is_unicast = !strcmp(run->kind, "unicast");
    bool is_packed = is_gso || !strcmp(run->kind, "packed");
    size_t per_datagram = is_packed && DATAGRAM_MAX > run->size ? DATAGRAM_MAX / run->size : 1;
    size_t datagrams_max = BATCH;
    if (is_gso && datagrams_max * per_datagram * run->size > TRAIN_BYTES_MAX)
        datagrams_max = TRAIN_BYTES_MAX / (per_datagram * run->size);

    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in local = address_of(run->interface, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&local, sizeof local)) fail("bind");
    set_option(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
    set_option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 1);
    if (setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &local.sin_addr, sizeof local.sin_addr)) fail("IP_MULTICAST_IF");

    struct sockaddr_in *to = calloc((size_t)run->receivers, sizeof *to);
    size_t targets = 1;
    to[0] = address_of(run->group, run->port);
    if (is_unicast) {
        char *list = strdup(run->to), *save = NULL;
        targets = 0;
        for (char *one = strtok_r(list, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
            to[targets] = address_of(one, run->port + (int)targets);
            targets++;
        }
    }

    uint8_t *bytes = malloc(BATCH * per_datagram * run->size);
    struct mmsghdr *calls = calloc(BATCH * targets, sizeof *calls);
    struct iovec vectors[BATCH];
    for (Schedule schedule = begin(run);;) {
        wait_credit(run, schedule.next, CREDIT * per_datagram);
        uint64_t first = schedule.next;
        uint64_t many = take_due(run, &schedule, datagrams_max * per_datagram);
        if (many == 0) break;
        for (uint64_t at = 0; at < many; at++) fill(run, bytes + at * run->size, first + at);
        size_t datagram = per_datagram * run->size, length = many * run->size;
        if (is_gso && length > datagram) {
            char control[CMSG_SPACE(2)] = {0};
            struct iovec all = {bytes, length};
            struct msghdr header = {&to[0], sizeof to[0], &all, 1, control, sizeof control, 0};
            struct cmsghdr *part = CMSG_FIRSTHDR(&header);
            part->cmsg_level = SOL_UDP;
            part->cmsg_type = UDP_SEGMENT;
            part->cmsg_len = CMSG_LEN(2);
            uint16_t segment = (uint16_t)datagram;
            memcpy(CMSG_DATA(part), &segment, 2);
            if (sendmsg(fd, &header, 0) < 0) fail("sendmsg");
            continue;
        }
        size_t datagrams = (length + datagram - 1) / datagram;
        for (size_t at = 0; at < datagrams; at++) {
            size_t from = at * datagram, rest = length - from;
            vectors[at] = (struct iovec){bytes + from, rest < datagram ? rest : datagram};
            for (size_t target = 0; target < targets; target++)
                calls[at * targets + target].msg_hdr =
                    (struct msghdr){&to[target], sizeof to[0], &vectors[at], 1, NULL, 0, 0};
        }
        for (size_t gone = 0, all = datagrams * targets; gone < all;) {
            size_t some = all - gone < 1024 ? all - gone : 1024;
            int sent = sendmmsg(fd, calls + gone, (unsigned)some, 0);
            if (sent < 0) fail("sendmmsg");
            gone += (size_t)sent;
        }
    }
    all_sent(run);
}

static int receiver_socket(Run *run, int at) {
    bool is_unicast = !strcmp(run->kind, "unicast");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0) fail("socket");
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER);
    if (!strcmp(run->kind, "gso")) set_option(fd, SOL_UDP, UDP_GRO, 1);
    struct sockaddr_in local = is_unicast ? address_of(run->interface, run->port + run->first + at)
                                          : address_of(run->group, run->port);
    if (bind(fd, (struct sockaddr *)&local, sizeof local)) fail("bind");
    if (!is_unicast) {
        struct ip_mreqn join;
        memset(&join, 0, sizeof join);
        join.imr_multiaddr = local.sin_addr;
        join.imr_address = address_of(run->interface, 0).sin_addr;
        if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join)) fail("join");
    }
    return fd;
}

static void receive_all(Run *run) {
    bool is_gso = !strcmp(run->kind, "gso");
    int poll = epoll_create1(0), fds[RECEIVERS_MAX];
    for (int at = 0; at < run->count; at++) {
        fds[at] = receiver_socket(run, at);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)at};
        epoll_ctl(poll, EPOLL_CTL_ADD, fds[at], &event);
    }
    size_t room = is_gso ? GRO_MAX : 2048;
    uint8_t *bytes = malloc(BATCH * room);
    struct mmsghdr calls[BATCH];
    struct iovec vectors[BATCH];
    memset(calls, 0, sizeof calls);
    for (int at = 0; at < BATCH; at++) {
        vectors[at] = (struct iovec){bytes + (size_t)at * room, room};
        calls[at].msg_hdr.msg_iov = &vectors[at];
        calls[at].msg_hdr.msg_iovlen = 1;
    }
    is_ready(run);
    while (!is_over(run)) {
        struct epoll_event events[64];
        int many = epoll_wait(poll, events, 64, 100);
        for (int event = 0; event < many; event++) {
            int at = (int)events[event].data.u32;
            // Datagrams of a train hold whole messages: where one ends and the next begins is all the same.
            int got = recvmmsg(fds[at], calls, BATCH, MSG_DONTWAIT, NULL);
            for (int one = 0; one < got; one++)
                for (size_t from = 0; from + run->size <= calls[one].msg_len; from += run->size)
                    came(run, at, bytes + (size_t)one * room + from);
        }
    }
}

int main(int argc, char **argv) {
    Run *run = run_of(argc, argv);
    if (run->is_sender) send_all(run);
    else receive_all(run);
    return 0;
}
