/* blast ADDRESS SECONDS: sends datagrams of 1400 bytes for so long, and prints bytes per second. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#define DATAGRAM_BYTES 1400
#define PORT 9

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int count, char **words) {
    static const char datagram[DATAGRAM_BYTES];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    if (count != 3 || !inet_aton(words[1], &to.sin_addr))
        return 2;
    int link = socket(AF_INET, SOCK_DGRAM, 0);
    if (link < 0 || connect(link, (struct sockaddr *)&to, sizeof to))
        return 2;
    double sent = 0, start = now_s(), end = start + atof(words[2]);
    while (now_s() < end)
        sent += send(link, datagram, sizeof datagram, 0) > 0 ? sizeof datagram : 0;
    printf("%.0f\n", sent / (now_s() - start));
    return 0;
}
