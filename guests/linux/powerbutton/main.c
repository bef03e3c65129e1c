/* powerbutton: waits until the VM's power button is pressed, and ends with status 0.
 *
 * Where the kernel's driver gpio-keys has the button, it is an input device with the key KEY_POWER.
 * Debian's cloud kernels are built without that driver: there the button is the line of a GPIO
 * controller that the device tree names, which is waited for itself.
 * Status 1: there is no button, or it cannot be waited for. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <linux/input.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define KEY_NODE "/sys/firmware/devicetree/base/gpio-keys/poweroff/gpios"
#define INPUT_FOLDER "/dev/input"
#define CHIP "/dev/gpiochip0"
#define BITS_PER_LONG (8 * sizeof(long))

static bool has_power_key(int input) {
    unsigned long keys[KEY_MAX / BITS_PER_LONG + 1] = {0};
    if (ioctl(input, EVIOCGBIT(EV_KEY, sizeof keys), keys) < 0)
        return false;
    return keys[KEY_POWER / BITS_PER_LONG] >> KEY_POWER % BITS_PER_LONG & 1;
}

/* Returns an input device with the key, or -1. */
static int open_input(void) {
    DIR *folder = opendir(INPUT_FOLDER);
    int found = -1;
    for (struct dirent *entry; folder && found < 0 && (entry = readdir(folder));) {
        char path[sizeof INPUT_FOLDER + sizeof entry->d_name];
        snprintf(path, sizeof path, INPUT_FOLDER "/%s", entry->d_name);
        int input = strncmp(entry->d_name, "event", 5) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        if (input >= 0 && has_power_key(input))
            found = input;
        else if (input >= 0)
            close(input);
    }
    if (folder)
        closedir(folder);
    return found;
}

static bool wait_for_key(int input) {
    struct input_event event;
    while (read(input, &event, sizeof event) == sizeof event)
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value)
            return true;
    return false;
}

/* The second of the big-endian cells of the key's property is its line. */
static bool read_line_number(uint32_t *line) {
    uint8_t cells[12];
    int node = open(KEY_NODE, O_RDONLY | O_CLOEXEC);
    if (node < 0)
        return false;
    ssize_t count = read(node, cells, sizeof cells);
    close(node);
    *line = (uint32_t)cells[4] << 24 | cells[5] << 16 | cells[6] << 8 | cells[7];
    return count == sizeof cells;
}

/* Returns a descriptor that has an event at each edge of the line, or -1. Both edges: so the kernel
 * reads the line at each, which releases the key. */
static int open_line(void) {
    struct gpio_v2_line_request request = {
        .num_lines = 1,
        .consumer = "powerbutton",
        .config.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING |
                        GPIO_V2_LINE_FLAG_EDGE_FALLING,
    };
    if (!read_line_number(&request.offsets[0]))
        return -1;
    int chip = open(CHIP, O_RDWR | O_CLOEXEC);
    if (chip < 0)
        return -1;
    int failed = ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request);
    close(chip);
    return failed ? -1 : request.fd;
}

/* A key that was pressed before has no edge any more. */
static bool wait_for_line(int line) {
    struct gpio_v2_line_values values = {.mask = 1};
    struct gpio_v2_line_event event;
    if (!ioctl(line, GPIO_V2_LINE_GET_VALUES_IOCTL, &values) && values.bits & 1)
        return true;
    return read(line, &event, sizeof event) == sizeof event;
}

int main(void) {
    int input = open_input();
    if (input >= 0)
        return wait_for_key(input) ? EXIT_SUCCESS : EXIT_FAILURE;
    int line = open_line();
    if (line < 0) {
        fprintf(stderr, "powerbutton: this machine has none that can be waited for: %s\n",
                strerror(errno));
        return EXIT_FAILURE;
    }
    return wait_for_line(line) ? EXIT_SUCCESS : EXIT_FAILURE;
}
