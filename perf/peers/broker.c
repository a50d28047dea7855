// Small clients of two brokers over TCP: --kind nats (its text protocol) and mqtt (3.1.1, QoS 0), at --to:--port.
//
// The source writes all that is due, up to 64 messages, in one write(). --count receivers are connections in one epoll.
#include "common.h"
#include <netinet/tcp.h>
#include <sys/epoll.h>

#define BATCH 64
#define ROOM (256 << 10)

static bool is_mqtt;

typedef struct {
    int fd;
    size_t have;
    uint8_t *bytes;
} Link;

static void put(int fd, const void *from, size_t length) {
    for (size_t gone = 0; gone < length;) {
        ssize_t more = write(fd, (const char *)from + gone, length - gone);
        if (more <= 0) fail("write");
        gone += (size_t)more;
    }
}

static int connect_to(Run *run) {
    struct sockaddr_in to = address_of(run->to, run->port);
    for (int tries = 0; tries < 500; tries++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        if (!connect(fd, (struct sockaddr *)&to, sizeof to)) return fd;
        close(fd);
        sleep_ns(20000000);
    }
    fail("connect");
    return -1;
}

static void await(int fd, const char *what) {
    char text[8192] = {0};
    for (size_t have = 0; have < sizeof text - 1;) {
        ssize_t more = read(fd, text + have, sizeof text - 1 - have);
        if (more <= 0) fail("the broker has gone");
        have += (size_t)more;
        if (memmem(text, have, what, strlen(what))) return;
    }
    fail("the broker says something else");
}

static int join(Run *run, int number, bool is_receiver) {
    int fd = connect_to(run);
    if (is_mqtt) {
        uint8_t hello[64] = {0x10, 0, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0};
        int id = snprintf((char *)hello + 14, 40, "%s%d", is_receiver ? "r" : "s", number);
        hello[13] = (uint8_t)id;
        hello[1] = (uint8_t)(12 + id);
        put(fd, hello, 14 + (size_t)id);
        await(fd, "\x20\x02");
        if (is_receiver) {
            put(fd, "\x82\x06\x00\x01\x00\x01t\x00", 8);
            await(fd, "\x90\x03");
        }
    } else {
        const char *hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\n";
        put(fd, hello, strlen(hello));
        if (is_receiver) put(fd, "SUB t 1\r\n", 9);
        put(fd, "PING\r\n", 6);
        await(fd, "PONG\r\n");
    }
    return fd;
}

static size_t head_of(Run *run, uint8_t *head) {
    if (!is_mqtt) return (size_t)sprintf((char *)head, "PUB t %zu\r\n", run->size);
    size_t at = 0, left = run->size + 3;
    head[at++] = 0x30;
    do {
        head[at++] = (uint8_t)(left & 0x7f) | (left > 0x7f ? 0x80 : 0);
        left >>= 7;
    } while (left);
    memcpy(head + at, "\0\1t", 3);
    return at + 3;
}

static void send_all(Run *run) {
    int fd = join(run, 0, false);
    uint8_t head[32], *bytes = malloc(BATCH * (run->size + 64));
    size_t head_length = head_of(run, head);
    for (Schedule schedule = begin(run);;) {
        uint64_t first = schedule.next, many = take_due(run, &schedule, BATCH);
        if (many == 0) break;
        size_t length = 0;
        for (uint64_t at = 0; at < many; at++) {
            memcpy(bytes + length, head, head_length);
            fill(run, bytes + length + head_length, first + at);
            length += head_length + run->size;
            if (!is_mqtt) {
                memcpy(bytes + length, "\r\n", 2);
                length += 2;
            }
        }
        put(fd, bytes, length);
    }
    all_sent(run);
    while (!are_all_over(run)) sleep_ns(5000000);
}

// Takes one packet or line from the front; how long it was, 0 where it is not whole yet.
static size_t take(Run *run, int at, int fd, const uint8_t *bytes, size_t have) {
    if (is_mqtt) {
        size_t length = 0, used = 1;
        for (int shift = 0;; shift += 7) {
            if (used >= have) return 0;
            length |= (size_t)(bytes[used] & 0x7f) << shift;
            if (!(bytes[used++] & 0x80)) break;
        }
        if (have < used + length) return 0;
        if ((bytes[0] & 0xf0) == 0x30 && length == run->size + 3) came(run, at, bytes + used + 3);
        return used + length;
    }
    const uint8_t *end = memchr(bytes, '\n', have);
    if (!end) return 0;
    size_t line = (size_t)(end - bytes) + 1;
    if (have >= 4 && !memcmp(bytes, "MSG ", 4)) {
        if (have < line + run->size + 2) return 0;
        came(run, at, bytes + line);
        return line + run->size + 2;
    }
    if (!memcmp(bytes, "PING", 4)) put(fd, "PONG\r\n", 6);
    if (!memcmp(bytes, "-ERR", 4)) fail((const char *)bytes);
    return line;
}

static void receive_all(Run *run) {
    int poll = epoll_create1(0);
    Link *links = calloc((size_t)run->count, sizeof *links);
    for (int at = 0; at < run->count; at++) {
        links[at].fd = join(run, run->first + at, true);
        links[at].bytes = malloc(ROOM);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)at};
        epoll_ctl(poll, EPOLL_CTL_ADD, links[at].fd, &event);
    }
    is_ready(run);
    while (!is_over(run)) {
        struct epoll_event events[64];
        int many = epoll_wait(poll, events, 64, 100);
        for (int event = 0; event < many; event++) {
            int at = (int)events[event].data.u32;
            Link *link = &links[at];
            ssize_t more = recv(link->fd, link->bytes + link->have, ROOM - link->have, MSG_DONTWAIT);
            if (more == 0) fail("the broker has closed the connection");
            if (more < 0) continue;
            link->have += (size_t)more;
            size_t used = 0, length;
            while ((length = take(run, at, link->fd, link->bytes + used, link->have - used))) used += length;
            link->have -= used;
            memmove(link->bytes, link->bytes + used, link->have);
        }
    }
}

int main(int argc, char **argv) {
    Run *run = run_of(argc, argv);
    is_mqtt = !strcmp(run->kind, "mqtt");
    if (run->is_sender) send_all(run);
    else receive_all(run);
    return 0;
}
