/*
 * Uses every device of its manifest: net `service` and block `storage`,
 * or one of them (-DNET_ONLY, -DBLOCK_ONLY), or nets `service` and `admin`
 * (-DTWO_NETS).
 *
 *   --write-block=N   writes block N with a pattern and reads it back
 *   --read-at=OFFSET  reads one block at any offset in bytes, checked or not
 *   --read-size=N     with N bytes instead of one block
 *   --ipv4=A.B.C.D    answers ARP and ICMP echo for this address on `service`
 *   --admin=A.B.C.D   the same on `admin`
 *   --spoof=MAC       sends each answer from this address, too, and something to
 *                     the bridge itself, both before the true answer
 *   --frames=N        exits after N answered frames (default: never)
 *   --stay            does not exit at the end, until killed
 *   --exit=STATUS
 *
 * Frames of EtherType 0x88b5 (local experiments) come back with source and
 * destination exchanged.
 */
#include "guest.h"

#if defined NET_ONLY
MANIFEST(NET("service"));
#elif defined BLOCK_ONLY
MANIFEST(BLOCK("storage"));
#elif defined TWO_NETS
MANIFEST(NET("service"), NET("admin"));
#else
MANIFEST(NET("service"), BLOCK("storage"));
#endif

static uint8_t block[32768] __attribute__((aligned(16)));
static uint8_t copy[32768] __attribute__((aligned(16)));
static uint8_t frame[65536] __attribute__((aligned(16)));

static void fail(const char *what)
{
    line(what);
    guest_exit(70);
}

static void write_block(uint32_t handle, uint64_t nr, size_t size)
{
    for (size_t i = 0; i < size; i++)
        block[i] = (uint8_t)(nr + i * 7);
    if (block_write(handle, nr * size, block, size) != 0)
        fail("block storage: write failed");
    if (block_read(handle, nr * size, copy, size) != 0)
        fail("block storage: reading back failed");
    if (memcmp(block, copy, size) != 0)
        fail("block storage: read back something else");
    text("block storage: wrote ");
    number(nr);
    end_line();
}

static void use_block(uint32_t handle)
{
    uint64_t capacity = manifest()->entry[handle].u.block.capacity;
    size_t size = manifest()->entry[handle].u.block.block_size;
    uint64_t sum = 0xcbf29ce484222325;

    text("block storage: capacity ");
    number(capacity);
    text(" block ");
    number(size);
    end_line();
    if (argument("--write-block=") != NULL)
        write_block(handle, argument_number("--write-block=", 0), size);
    if (argument("--read-at=") != NULL) {
        int result = block_read(handle, argument_number("--read-at=", 0), block,
                                argument_number("--read-size=", size));
        line(result == 0 ? "block storage: read" : "block storage: refused");
    }
    /* FNV-1a, 64 bits. */
    for (uint64_t offset = 0; offset < capacity; offset += size) {
        if (block_read(handle, offset, block, size) != 0)
            fail("block storage: read failed");
        for (size_t i = 0; i < size; i++)
            sum = (sum ^ block[i]) * 0x100000001b3;
    }
    text("block storage: fnv1a ");
    hex(sum, 16);
    end_line();
}

static uint32_t checksum(const uint8_t *data, size_t length)
{
    uint32_t sum = 0;

    for (size_t i = 0; i + 1 < length; i += 2)
        sum += (uint32_t)data[i] << 8 | data[i + 1];
    if (length % 2 != 0)
        sum += (uint32_t)data[length - 1] << 8;
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

static int parse_ipv4(uint8_t *address, const char *prefix)
{
    const char *s = argument(prefix);

    if (s == NULL)
        return 0;
    for (int i = 0; i < 4; i++, s++) {
        unsigned n = 0;
        for (; *s >= '0' && *s <= '9'; s++)
            n = n * 10 + (unsigned)(*s - '0');
        address[i] = (uint8_t)n;
        if (i < 3 && *s != '.')
            fail("not an IPv4 address");
    }
    return 1;
}

static int parse_mac(uint8_t *mac)
{
    const char *s = argument("--spoof=");

    for (int i = 0; s != NULL && i < 12; i++, s += i % 2 == 0 ? 2 : 1) {
        unsigned digit = (unsigned)(*s <= '9' ? *s - '0' : *s - 'a' + 10);
        mac[i / 2] = (uint8_t)(i % 2 == 0 ? digit << 4 : mac[i / 2] | digit);
    }
    return s != NULL;
}

/* Turns the frame into its answer; 0 when there is none to give. */
static int answer(long length, const uint8_t *mac, const uint8_t *ipv4)
{
    unsigned type = (unsigned)frame[12] << 8 | frame[13];
    uint8_t *body = frame + 14;

    if (length < 14)
        return 0;
    if (type == 0x0806 && ipv4 != NULL && length >= 42 && body[7] == 1
        && memcmp(body + 24, ipv4, 4) == 0) {
        body[7] = 2;
        memcpy(body + 18, body + 8, 10);
        memcpy(body + 8, mac, 6);
        memcpy(body + 14, ipv4, 4);
    } else if (type == 0x0800 && ipv4 != NULL && length >= 42 && body[0] == 0x45
               && body[9] == 1 && body[20] == 8 && memcmp(body + 16, ipv4, 4) == 0) {
        size_t total = (size_t)body[2] << 8 | body[3];
        uint32_t sum;
        if (total < 28 || total > (size_t)length - 14)
            return 0;
        memcpy(body + 16, body + 12, 4);
        memcpy(body + 12, ipv4, 4);
        body[20] = body[22] = body[23] = 0;
        sum = checksum(body + 20, total - 20);
        body[22] = (uint8_t)(sum >> 8);
        body[23] = (uint8_t)sum;
    } else if (type != 0x88b5) {
        return 0;
    }
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, mac, 6);
    return 1;
}

/* What a bridge never passes on, but learns from. */
static const uint8_t to_the_bridge[6] = { 0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e };

static void write_frame(uint32_t handle, long length)
{
    if (net_write(handle, frame, (size_t)length) != 0)
        fail("net: write failed");
}

static void write_spoofed(uint32_t handle, long length, const uint8_t *spoofed)
{
    uint8_t addresses[12];

    memcpy(addresses, frame, 12);
    memcpy(frame + 6, spoofed, 6);
    write_frame(handle, length);
    memcpy(frame, to_the_bridge, 6);
    /* Another address, to be told from the first. */
    frame[11] ^= 1;
    write_frame(handle, length);
    memcpy(frame, addresses, 12);
}

/* Answers what has arrived; the number of answers, or -1 when nothing had. */
static int use_net(uint32_t handle, const char *option)
{
    uint8_t ipv4[4], spoofed[6];
    int has_ipv4 = parse_ipv4(ipv4, option);
    const uint8_t *mac = manifest()->entry[handle].u.net.mac;
    long length = net_read(handle, frame, sizeof frame);

    if (length < 0)
        fail("net: read failed");
    if (length == 0)
        return -1;
    if (!answer(length, mac, has_ipv4 ? ipv4 : NULL))
        return 0;
    if (parse_mac(spoofed))
        write_spoofed(handle, length, spoofed);
    write_frame(handle, length);
    return 1;
}

static void describe_net(uint32_t handle)
{
    const struct entry *net = &manifest()->entry[handle];

    text("net ");
    text(net->name);
    text(": mac ");
    for (int i = 0; i < 6; i++) {
        hex(net->u.net.mac[i], 2);
        text(i < 5 ? ":" : " mtu ");
    }
    number(net->u.net.mtu);
    end_line();
}

static void use_nets(uint32_t service, uint32_t admin)
{
    uint64_t frames = argument_number("--frames=", UINT64_MAX);

    describe_net(service);
    if (admin != 0)
        describe_net(admin);
    line("net service: ready");
    for (uint64_t done = 0; done < frames;) {
        int first = use_net(service, "--ipv4=");
        int second = admin != 0 ? use_net(admin, "--admin=") : -1;
        if (first < 0 && second < 0)
            wait_ns(1000000000);
        done += (uint64_t)(first > 0) + (uint64_t)(second > 0);
    }
    line("net service: done");
}

int guest_main(void)
{
    uint32_t storage = device("storage", TYPE_BLOCK);
    uint32_t service = device("service", TYPE_NET);

    if (storage != 0)
        use_block(storage);
    if (service != 0)
        use_nets(service, device("admin", TYPE_NET));
    line("devices: done");
    while (argument("--stay") != NULL)
        wait_ns(1000000000);
    return (int)argument_number("--exit=", 0);
}
