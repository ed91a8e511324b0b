/* load [--rate R] PORT CORPUS: sends a corpus to 127.0.0.1 over keep-alive connections, prints what came of it as JSON.
 *
 * The corpus is a sequence of records: connection number and length (32 bits each, little endian), then the request.
 * Without a rate each connection sends its next request when its answer is there, and latency runs from the sending.
 * With one, request i of the corpus is due at i/R seconds; it waits for its connection, and latency runs from when it
 * was due: a slow answer counts against all that had to wait behind it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_BYTES = 65536, STATUSES = 600, EVENTS = 256, NOTHING = UINT32_MAX };

typedef struct {
    const char *bytes;
    uint32_t length, next; /* next: the one after it on its connection */
} Request;

typedef struct {
    int fd, waiting;         /* waiting: a request is under way */
    uint32_t current, first; /* first: of those that are yet to be sent */
    uint64_t released;       /* how many of those are due */
    uint32_t sent;
    uint64_t began;
    uint32_t got;
    char answer[ANSWER_BYTES];
} Connection;

static Request *requests;
static Connection *connections;
static uint32_t request_count, connection_count, answered, broken;
static uint32_t by_status[STATUSES];
static double *latency_ms, rate;
static uint64_t start;
static struct sockaddr_in address;
static int epoll;

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "it is not as expected");
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t due_ns(uint32_t index) { return start + (uint64_t)(index * 1e9 / rate); }

/* The corpus */

static const char *map_file(const char *path, size_t *size) {
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status) < 0) fail(path);
    *size = (size_t)status.st_size;
    const char *bytes = mmap(NULL, *size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (bytes == MAP_FAILED) fail(path);
    return bytes;
}

static void count_records(const char *bytes, size_t size) {
    uint32_t head[2];
    for (size_t at = 0; at < size; at += sizeof head + head[1]) {
        if (size - at < sizeof head) fail("the corpus");
        memcpy(head, bytes + at, sizeof head);
        if (head[0] > 65535 || head[1] > size - at - sizeof head) fail("the corpus");
        if (head[0] >= connection_count) connection_count = head[0] + 1;
        request_count++;
    }
    if (!request_count) fail("the corpus");
}

static void read_corpus(const char *path) {
    size_t size, at = 0;
    const char *bytes = map_file(path, &size);
    count_records(bytes, size);
    requests = calloc(request_count, sizeof *requests);
    connections = calloc(connection_count, sizeof *connections);
    latency_ms = calloc(request_count, sizeof *latency_ms);
    uint32_t *last = malloc(connection_count * sizeof *last);
    if (!requests || !connections || !latency_ms || !last) fail("memory");
    for (uint32_t i = 0; i < connection_count; i++) connections[i].first = last[i] = NOTHING;
    for (uint32_t i = 0; i < request_count; i++) {
        uint32_t head[2];
        memcpy(head, bytes + at, sizeof head);
        requests[i] = (Request){bytes + at + sizeof head, head[1], NOTHING};
        if (last[head[0]] == NOTHING) connections[head[0]].first = i;
        else requests[last[head[0]]].next = i;
        last[head[0]] = i;
        at += sizeof head + head[1];
    }
    free(last);
}

/* One connection */

static void watch(Connection *connection, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(epoll, operation, connection->fd, &event) < 0) fail("epoll");
}

static void dial(Connection *connection) {
    int on = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    watch(connection, EPOLL_CTL_ADD, EPOLLIN);
}

static void push(Connection *connection) {
    const Request *request = &requests[connection->current];
    while (connection->sent < request->length) {
        ssize_t size =
            send(connection->fd, request->bytes + connection->sent, request->length - connection->sent, MSG_NOSIGNAL);
        if (size < 0 && errno == EAGAIN) {
            watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (size < 0) return; /* what is wrong shows at the next read */
        connection->sent += (uint32_t)size;
    }
}

static void send_next(Connection *connection) {
    if (connection->waiting || connection->first == NOTHING || (rate && !connection->released)) return;
    connection->current = connection->first;
    connection->first = requests[connection->current].next;
    connection->released -= rate != 0;
    connection->waiting = 1;
    connection->sent = connection->got = 0;
    connection->began = rate ? due_ns(connection->current) : now_ns();
    push(connection);
}

static void finish(Connection *connection) {
    latency_ms[answered++] = (double)(now_ns() - connection->began) / 1e6;
    connection->waiting = 0;
    send_next(connection);
}

static void redial(Connection *connection) {
    close(connection->fd);
    dial(connection);
    if (!connection->waiting) return;
    broken++;
    finish(connection);
}

/* The length of the body that follows this head: it ends with an empty line. */
static uint32_t body_length(const char *head, const char *end, int status) {
    if (status == 204 || status == 304) return 0;
    for (const char *line = head; line < end; line = strstr(line, "\r\n") + 2)
        if (!strncasecmp(line, "content-length:", 15)) return (uint32_t)strtoul(line + 15, NULL, 10);
    errno = 0;
    fail("an answer without a length");
    return 0;
}

static void read_answer(Connection *connection) {
    connection->answer[connection->got] = 0;
    char *end = strstr(connection->answer, "\r\n\r\n");
    if (!end) return;
    int status = connection->got > 12 ? atoi(connection->answer + 9) : 0;
    if (status < 200 || status >= STATUSES) fail("an answer's status");
    uint32_t whole = (uint32_t)(end + 4 - connection->answer) + body_length(connection->answer, end, status);
    if (whole >= ANSWER_BYTES) fail("an answer's size");
    if (connection->got < whole) return;
    by_status[status]++;
    finish(connection);
}

static void receive(Connection *connection) {
    ssize_t size = recv(connection->fd, connection->answer + connection->got, ANSWER_BYTES - 1 - connection->got, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        redial(connection);
    } else if (connection->waiting) {
        connection->got += (uint32_t)size;
        read_answer(connection);
    }
}

static void serve(const struct epoll_event *event) {
    Connection *connection = event->data.ptr;
    if (event->events & EPOLLOUT) {
        watch(connection, EPOLL_CTL_MOD, EPOLLIN);
        if (connection->waiting) push(connection);
    }
    if (event->events & ~(uint32_t)EPOLLOUT) receive(connection);
}

/* All of them */

static uint32_t *owners(void) {
    uint32_t *owner = malloc(request_count * sizeof *owner);
    if (!owner) fail("memory");
    for (uint32_t i = 0; i < connection_count; i++)
        for (uint32_t at = connections[i].first; at != NOTHING; at = requests[at].next) owner[at] = i;
    return owner;
}

static uint32_t release_due(const uint32_t *owner, uint32_t next) {
    for (uint64_t now = now_ns(); next < request_count && due_ns(next) <= now; next++) {
        connections[owner[next]].released++;
        send_next(&connections[owner[next]]);
    }
    return next;
}

static int wait_for_events(struct epoll_event *events, uint32_t next) {
    struct timespec pause, *until = NULL;
    if (rate && next < request_count) {
        uint64_t now = now_ns(), due = due_ns(next), left = due > now ? due - now : 0;
        pause = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
        until = &pause;
    }
    int count = epoll_pwait2(epoll, events, EVENTS, until, NULL);
    if (count < 0 && errno != EINTR) fail("epoll");
    return count;
}

static void run(void) {
    struct epoll_event events[EVENTS];
    uint32_t *owner = owners(), next = 0;
    start = now_ns();
    if (!rate)
        for (uint32_t i = 0; i < connection_count; i++) send_next(&connections[i]);
    while (answered < request_count) {
        if (rate) next = release_due(owner, next);
        int count = wait_for_events(events, next);
        for (int i = 0; i < count; i++) serve(&events[i]);
    }
    free(owner);
}

/* What came of it */

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile(double part) {
    uint32_t at = (uint32_t)(part * request_count);
    return latency_ms[at < request_count ? at : request_count - 1];
}

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void report(double seconds, double cpu) {
    qsort(latency_ms, request_count, sizeof *latency_ms, ascending);
    printf("{\"requests\": %u, \"broken\": %u, \"by_status\": {", request_count, broken);
    const char *comma = "";
    for (int status = 0; status < STATUSES; status++)
        if (by_status[status]) {
            printf("%s\"%d\": %u", comma, status, by_status[status]);
            comma = ", ";
        }
    printf("}, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"latency_ms\": {", seconds, cpu);
    printf("\"p50\": %.4f, \"p90\": %.4f, \"p99\": %.4f, ", percentile(.5), percentile(.9), percentile(.99));
    printf("\"p99.9\": %.4f, \"max\": %.4f}}\n", percentile(.999), percentile(1));
}

int main(int count, char **arguments) {
    if (count > 2 && !strcmp(arguments[1], "--rate")) {
        rate = atof(arguments[2]);
        arguments += 2;
        count -= 2;
    }
    if (count != 3 || rate < 0) {
        fprintf(stderr, "usage: load [--rate R] PORT CORPUS\n");
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1UL); /* or each wait for what is due next is 50 us longer */
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(arguments[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    read_corpus(arguments[2]);
    if ((epoll = epoll_create1(0)) < 0) fail("epoll");
    for (uint32_t i = 0; i < connection_count; i++) dial(&connections[i]);
    double cpu = cpu_seconds();
    run();
    report((double)(now_ns() - start) / 1e9, cpu_seconds() - cpu);
    return 0;
}
