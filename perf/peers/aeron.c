// Aeron: an exclusive publication to a multicast group; the media driver (aeronmd) of each host is a process of its own, in
// the folder AERON_DIR. The settings of the drivers are in `run`, with their reasons in README.md.
#include "common.h"
#include <aeronc.h>

#define STREAM 1001
// As the drivers' idle strategy.
#define IDLE_NS 20000

static void check(int result, const char *what) {
    if (result >= 0) return;
    fprintf(stderr, "%s: %s\n", what, aeron_errmsg());
    exit(1);
}

static aeron_t *open_client(void) {
    aeron_context_t *context;
    aeron_t *client;
    check(aeron_context_init(&context), "aeron_context_init"); // takes AERON_DIR
    check(aeron_init(&client, context), "aeron_init");
    check(aeron_start(client), "aeron_start");
    return client;
}

static void send_all(Run *run) {
    // The slowest of all receivers sets the pace, and nothing begins before all are there.
    char channel[256];
    snprintf(channel, sizeof channel, "aeron:udp?endpoint=%s:%d|interface=%s|ttl=1|fc=min,g:/%d", run->group, run->port,
             run->interface, run->receivers);
    aeron_t *client = open_client();
    aeron_async_add_exclusive_publication_t *adding;
    aeron_exclusive_publication_t *publication = NULL;
    check(aeron_async_add_exclusive_publication(&adding, client, channel, STREAM), "add publication");
    while (!publication) {
        check(aeron_async_add_exclusive_publication_poll(&publication, adding), "add publication");
        sleep_ns(1000000);
    }
    uint8_t *message = malloc(run->size);
    for (int tries = 0; !aeron_exclusive_publication_is_connected(publication); tries++) {
        if (tries > 20000) fail("no receivers");
        sleep_ns(1000000);
    }
    for (Schedule schedule = begin(run);;) {
        uint64_t first = schedule.next, many = take_due(run, &schedule, run->rate > 0 ? 64 : 1);
        if (many == 0) break;
        for (uint64_t at = 0; at < many; at++) {
            fill(run, message, first + at);
            int64_t position;
            while ((position = aeron_exclusive_publication_offer(publication, message, run->size, NULL, NULL)) < 0) {
                if (position == AERON_PUBLICATION_CLOSED || position == AERON_PUBLICATION_ERROR ||
                    position == AERON_PUBLICATION_MAX_POSITION_EXCEEDED)
                    fail("offer");
                if (position != AERON_PUBLICATION_ADMIN_ACTION) sleep_ns(IDLE_NS);
            }
        }
    }
    all_sent(run);
    while (!are_all_over(run)) sleep_ns(5000000);
}

static void on_fragment(void *clientd, const uint8_t *buffer, size_t length, aeron_header_t *header) {
    (void)header;
    Run *run = clientd;
    if (length == run->size) came(run, 0, buffer);
}

static void receive_all(Run *run) {
    char channel[256];
    snprintf(channel, sizeof channel, "aeron:udp?endpoint=%s:%d|interface=%s|ttl=1", run->group, run->port, run->interface);
    aeron_t *client = open_client();
    aeron_async_add_subscription_t *adding;
    aeron_subscription_t *subscription = NULL;
    check(aeron_async_add_subscription(&adding, client, channel, STREAM, NULL, NULL, NULL, NULL), "add subscription");
    while (!subscription) {
        check(aeron_async_add_subscription_poll(&subscription, adding), "add subscription");
        sleep_ns(1000000);
    }
    while (aeron_subscription_image_count(subscription) < 1) sleep_ns(1000000);
    is_ready(run);
    for (uint64_t look_at = 0; now_ns() < look_at || !is_over(run);) {
        if (now_ns() >= look_at) look_at = now_ns() + 10000000;
        if (aeron_subscription_poll(subscription, on_fragment, run, 64) <= 0) sleep_ns(IDLE_NS);
    }
}

int main(int argc, char **argv) {
    Run *run = run_of(argc, argv);
    if (run->is_sender) send_all(run);
    else receive_all(run);
    return 0;
}
