// What the drivers of all peers share: options, the schedule, and the files through which the runner learns what came when.
//
// A run has a folder in memory (--dir). In it `board` holds words that all processes of the run see, `sent` the intended time
// of each message, and `rx.R` the arrivals at receiver R: nanoseconds of CLOCK_MONOTONIC by message, 0 for never. The runner
// makes the files in their full size. No driver counts or averages anything itself.
#ifndef PEERS_COMMON_H
#define PEERS_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RECEIVERS_MAX 512
#define SOCKET_BUFFER (4 << 20)
#define SECOND 1000000000ull

// Words of the board: of the run, then of each receiver.
enum { STATE = 0, RUN_WORDS = 16, READY = 0, RECEIVED, REACHED, OVER, DUPLICATES, OUT_OF_ORDER, ALTERED, RECEIVER_WORDS = 16 };
enum { SENDING = 1, ALL_SENT = 2 };

typedef struct {
    bool is_sender;
    uint64_t messages;
    size_t size;
    double rate; // 0: as fast as the peer takes them
    int receivers;
    int first, count; // which receivers this process is
    const char *kind, *name, *dir, *interface;
    const char *group, *to;
    int port;
    volatile uint64_t *board;
    uint64_t *sent;
    uint64_t *arrivals[RECEIVERS_MAX];
    uint8_t *filling;
    uint64_t next_index[RECEIVERS_MAX];
    uint64_t last_arrival;
} Run;

static inline void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "failed");
    exit(1);
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static inline void sleep_until(uint64_t ns) {
    struct timespec t;
    t.tv_sec = (time_t)(ns / SECOND);
    t.tv_nsec = (long)(ns % SECOND);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static inline void sleep_ns(uint64_t ns) { sleep_until(now_ns() + ns); }

static inline volatile uint64_t *word_of(Run *run, int receiver, int word) {
    return &run->board[RUN_WORDS + receiver * RECEIVER_WORDS + word];
}

static inline void *map_file(const char *dir, const char *name, size_t bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR);
    if (fd < 0) fail(path);
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) fail(path);
    close(fd);
    return at;
}

// Every driver: (send|receive) --messages M --size S --rate R --receivers N --first F --count C --kind K --name NAME
// --dir DIR --interface ADDRESS --group ADDRESS --port P --to ADDRESS,ADDRESS,...
static inline Run *run_of(int argc, char **argv) {
    Run *run = (Run *)calloc(1, sizeof *run);
    if (argc < 2) fail("usage");
    run->is_sender = !strcmp(argv[1], "send");
    run->count = 1;
    run->kind = run->name = run->to = "";
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *option = argv[i], *value = argv[i + 1];
        if (!strcmp(option, "--messages")) run->messages = strtoull(value, NULL, 10);
        else if (!strcmp(option, "--size")) run->size = strtoull(value, NULL, 10);
        else if (!strcmp(option, "--rate")) run->rate = strtod(value, NULL);
        else if (!strcmp(option, "--receivers")) run->receivers = atoi(value);
        else if (!strcmp(option, "--first")) run->first = atoi(value);
        else if (!strcmp(option, "--count")) run->count = atoi(value);
        else if (!strcmp(option, "--kind")) run->kind = value;
        else if (!strcmp(option, "--name")) run->name = value;
        else if (!strcmp(option, "--dir")) run->dir = value;
        else if (!strcmp(option, "--interface")) run->interface = value;
        else if (!strcmp(option, "--group")) run->group = value;
        else if (!strcmp(option, "--port")) run->port = atoi(value);
        else if (!strcmp(option, "--to")) run->to = value;
        else fail(option);
    }
    if (!run->dir || run->size < 8 || run->receivers < 1 || run->first + run->count > RECEIVERS_MAX) fail("usage");
    prctl(PR_SET_TIMERSLACK, 1ul, 0, 0, 0);
    run->board = (volatile uint64_t *)map_file(run->dir, "board", (RUN_WORDS + RECEIVERS_MAX * RECEIVER_WORDS) * 8);
    if (run->is_sender) {
        run->sent = (uint64_t *)map_file(run->dir, "sent", run->messages * 8);
    } else {
        for (int at = 0; at < run->count; at++) {
            char name[32];
            snprintf(name, sizeof name, "rx.%d", run->first + at);
            run->arrivals[at] = (uint64_t *)map_file(run->dir, name, run->messages * 8);
        }
    }
    run->filling = (uint8_t *)malloc(run->size);
    for (size_t at = 0; at < run->size; at++) run->filling[at] = (uint8_t)(at * 167 + 13);
    return run;
}

static inline void fill(Run *run, void *message, uint64_t index) {
    memcpy(message, &index, 8);
    memcpy((char *)message + 8, run->filling + 8, run->size - 8);
}

// The receiver's end of every peer: what is written down, and when.
static inline void came(Run *run, int at, const void *message) {
    uint64_t index;
    memcpy(&index, message, 8);
    int receiver = run->first + at;
    if (index >= run->messages || memcmp((const char *)message + 8, run->filling + 8, run->size - 8)) {
        ++*word_of(run, receiver, ALTERED);
        return;
    }
    if (run->arrivals[at][index]) {
        ++*word_of(run, receiver, DUPLICATES);
        return;
    }
    run->arrivals[at][index] = run->last_arrival = now_ns();
    ++*word_of(run, receiver, RECEIVED);
    if (index < run->next_index[at]) ++*word_of(run, receiver, OUT_OF_ORDER);
    else *word_of(run, receiver, REACHED) = run->next_index[at] = index + 1;
}

static inline void is_ready(Run *run) {
    for (int at = 0; at < run->count; at++) *word_of(run, run->first + at, READY) = 1;
    run->last_arrival = now_ns();
}

// Everything has come, or all was sent and nothing has come for two seconds.
static inline bool is_over(Run *run) {
    bool is_whole = true;
    for (int at = 0; at < run->count; at++) is_whole &= *word_of(run, run->first + at, RECEIVED) >= run->messages;
    if (!is_whole && (run->board[STATE] != ALL_SENT || now_ns() < run->last_arrival + 2 * SECOND)) return false;
    for (int at = 0; at < run->count; at++) *word_of(run, run->first + at, OVER) = 1;
    return true;
}

static inline int how_many(Run *run, int word) {
    int many = 0;
    for (int receiver = 0; receiver < run->receivers; receiver++) many += *word_of(run, receiver, word) != 0;
    return many;
}

static inline uint64_t least_reached(Run *run) {
    uint64_t least = UINT64_MAX;
    for (int receiver = 0; receiver < run->receivers; receiver++) {
        uint64_t reached = *word_of(run, receiver, REACHED);
        if (reached < least) least = reached;
    }
    return least;
}

static inline void wait_ready(Run *run) {
    for (int tries = 0; how_many(run, READY) < run->receivers; tries++) {
        if (tries > 20000) fail("receivers are missing");
        sleep_ns(1000000);
    }
    // As floorcast's source does: what was set in motion comes to rest.
    sleep_ns(200000000);
    run->board[STATE] = SENDING;
}

// A schedule that is fixed before the first message. Of an unpaced run each message is due when it is first offered.
typedef struct {
    uint64_t start, next;
} Schedule;

static inline Schedule begin(Run *run) {
    wait_ready(run);
    Schedule schedule = {now_ns() + (run->rate > 0 ? 1000000 : 0), 0};
    return schedule;
}

static inline uint64_t due(Run *run, const Schedule *schedule, uint64_t index) {
    return schedule->start + (uint64_t)((double)index * 1e9 / run->rate);
}

// Waits for the next message to be due; how many are, up to `most`, all written down. 0: all were offered.
static inline uint64_t take_due(Run *run, Schedule *schedule, uint64_t most) {
    uint64_t left = run->messages - schedule->next;
    if (left < most) most = left;
    if (most == 0) return 0;
    uint64_t now = now_ns(), many = 0;
    if (run->rate > 0) {
        uint64_t first = due(run, schedule, schedule->next);
        while (now < first) {
            sleep_until(first);
            now = now_ns();
        }
        for (uint64_t at; many < most && (at = due(run, schedule, schedule->next)) <= now; many++)
            run->sent[schedule->next++] = at;
    } else {
        for (; many < most; many++) run->sent[schedule->next++] = now;
    }
    return many;
}

static inline void all_sent(Run *run) { run->board[STATE] = ALL_SENT; }

// For peers that repair: they must live until all receivers are content.
static inline bool are_all_over(Run *run) { return how_many(run, OVER) == run->receivers; }

static inline struct sockaddr_in address_of(const char *text, int port) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    if (inet_pton(AF_INET, text, &address.sin_addr) != 1) fail(text);
    return address;
}

static inline void set_option(int fd, int level, int option, int value) {
    if (setsockopt(fd, level, option, &value, sizeof value)) fail("setsockopt");
}

#endif
