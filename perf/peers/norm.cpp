// NORM (RFC 5740), the Naval Research Laboratory's library: a stream object with an end of message after each message.
//
// --kind tuned   repair by retransmission only; fec: 8 parity segments for 16, sent only when a NACK asks. README.md says why
// congestion control is off, the rate fixed, and the estimate of the round trip a constant.
#include "common.h"
#include <normApi.h>
#include <poll.h>

static const double RATE = 8e8; // bit/s
static const double ROUND_TRIP = 0.0002;
static const unsigned STREAM_BYTES = 64 << 20, CACHE_BYTES = 128 << 20;
static const UINT16 SEGMENT = 1400;

static NormSessionHandle open_session(Run *run, NormInstanceHandle instance, NormNodeId id) {
    NormSessionHandle session = NormCreateSession(instance, run->group, (UINT16)run->port, id);
    if (session == NORM_SESSION_INVALID) fail("NormCreateSession");
    NormSetRxPortReuse(session, true);
    if (!NormSetMulticastInterface(session, "eth0")) fail("NormSetMulticastInterface");
    NormSetTTL(session, 1);
    NormSetGrttEstimate(session, ROUND_TRIP);
    NormSetGrttProbingMode(session, NORM_PROBE_NONE);
    NormSetBackoffFactor(session, 0);
    NormSetGroupSize(session, (unsigned)run->receivers);
    return session;
}

static void drain(NormInstanceHandle instance) {
    NormEvent event;
    struct pollfd ready = {NormGetDescriptor(instance), POLLIN, 0};
    while (poll(&ready, 1, 0) > 0 && NormGetNextEvent(instance, &event, false)) {
    }
}

static void send_all(Run *run) {
    bool is_fec = !strcmp(run->kind, "fec");
    NormInstanceHandle instance = NormCreateInstance();
    NormSessionHandle session = open_session(run, instance, 1);
    NormSetCongestionControl(session, false);
    NormSetTxRate(session, RATE);
    if (!NormStartSender(session, 1, CACHE_BYTES, SEGMENT, is_fec ? 16 : 64, is_fec ? 8 : 0)) fail("NormStartSender");
    NormSetTxSocketBuffer(session, SOCKET_BUFFER);
    NormObjectHandle stream = NormStreamOpen(session, STREAM_BYTES);
    char *message = (char *)malloc(run->size);
    struct pollfd ready = {NormGetDescriptor(instance), POLLIN, 0};
    // A receiver that hears the stream for the first time sets up all of its buffers, and is deaf meanwhile.
    memset(message, 0xff, run->size);
    while (how_many(run, READY) < run->receivers) {
        NormStreamWrite(stream, message, (unsigned)run->size);
        NormStreamMarkEom(stream);
        NormStreamFlush(stream, true, NORM_FLUSH_PASSIVE);
        sleep_ns(20000000);
        drain(instance);
    }
    for (Schedule schedule = begin(run);;) {
        uint64_t first = schedule.next, many = take_due(run, &schedule, run->rate > 0 ? 64 : 1);
        if (many == 0) break;
        for (uint64_t at = 0; at < many; at++) {
            fill(run, message, first + at);
            for (unsigned gone = 0; gone < run->size;) {
                gone += NormStreamWrite(stream, message + gone, (unsigned)run->size - gone);
                if (gone < run->size) {
                    poll(&ready, 1, 1);
                    drain(instance);
                }
            }
            NormStreamMarkEom(stream);
        }
        // What is due must not wait for a segment to be full; an unpaced stream fills them.
        if (run->rate > 0) NormStreamFlush(stream, true, NORM_FLUSH_PASSIVE);
        drain(instance);
    }
    NormStreamFlush(stream, true, NORM_FLUSH_ACTIVE);
    all_sent(run);
    while (!are_all_over(run)) {
        poll(&ready, 1, 10);
        drain(instance);
    }
}

// Whether it is a message of the run, and none of those before it.
static bool is_begun(const char *message) { return (uint8_t)message[7] != 0xff; }

static void receive_all(Run *run) {
    NormInstanceHandle instance = NormCreateInstance();
    NormSessionHandle session = open_session(run, instance, (NormNodeId)(run->first + 2));
    NormSetDefaultSyncPolicy(session, NORM_SYNC_STREAM);
    NormSetDefaultRxRobustFactor(session, -1);
    NormSetRxCacheLimit(session, 4096);
    if (!NormStartReceiver(session, CACHE_BYTES)) fail("NormStartReceiver");
    if (!NormSetRxSocketBuffer(session, SOCKET_BUFFER)) fail("NormSetRxSocketBuffer");
    char *message = (char *)malloc(run->size);
    unsigned have = 0;
    bool is_in_step = false;
    struct pollfd ready = {NormGetDescriptor(instance), POLLIN, 0};
    while (!is_over(run)) {
        if (poll(&ready, 1, 100) <= 0) continue;
        NormEvent event;
        while (poll(&ready, 1, 0) > 0 && NormGetNextEvent(instance, &event, false)) {
            if (event.type != NORM_RX_OBJECT_UPDATED) continue;
            for (;;) {
                if (!is_in_step && !(is_in_step = NormStreamSeekMsgStart(event.object))) break;
                unsigned more = (unsigned)run->size - have;
                if (!NormStreamRead(event.object, message + have, &more)) {
                    is_in_step = false; // the stream has a hole that will not be repaired
                    have = 0;
                    continue;
                }
                if (more == 0) break;
                have += more;
                if (have == run->size) {
                    have = 0;
                    if (is_begun(message)) came(run, 0, message);
                    else is_ready(run);
                }
            }
        }
    }
}

int main(int argc, char **argv) {
    Run *run = run_of(argc, argv);
    if (run->is_sender) send_all(run);
    else receive_all(run);
    return 0;
}
