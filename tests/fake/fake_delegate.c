/* A FAKE external delegate for tests: the real ABI, no accelerator. Whatever it answers, no time of it means anything.
 *
 *   gcc -std=c11 -shared -fPIC -O1 -o libfake.so fake_delegate.c     add -DPOISON or -DCRASH='"create"' for a build with a fault
 *
 * It takes `edgetpu-custom-op`, or the builtin operator whose number is in the option `claim`. What it takes is copied from its first
 * input to its output where both have the same size (so RESHAPE is right), else filled from a hash of the input.
 * FAKE_DEVICES    what is plugged in: "usb,usb,pci"; "" is nothing, unset is one on USB
 * FAKE_LOG        a file that gets a line for each event
 * FAKE_ANSWER     "wrong": outputs are the hash even where a copy would be right
 * FAKE_INVOKE     "hang": an inference never ends; "crash": it is a SIGSEGV; "slow": it takes 2 ms
 *
 * Structures as in tensorflow/lite/core/c/common.h for 64-bit machines; TfLiteRegistration is passed by value, which is what
 * breaks libraries built against older headers (64 bytes; 88 since TensorFlow 2.10): -DPOISON is such a library.
 */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct { int type; void *data; IntArray *dims; char middle[16]; size_t bytes; char rest[64]; } Tensor;
_Static_assert(sizeof(Tensor) == 112, "TfLiteTensor");
typedef struct {
    IntArray *inputs, *outputs, *intermediates, *temporaries;
    void *user_data, *builtin_data;
    const void *custom_initial_data;
    int custom_initial_data_size;
} Node;
typedef struct Context Context;
typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling_string)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *registration_external, *async_kernel;
    uint64_t inplace_operator;
} Registration;
_Static_assert(sizeof(Registration) == 88, "TfLiteRegistration");
typedef struct Delegate Delegate;
struct Context {
    size_t tensors_size;
    int (*get_execution_plan)(Context *, IntArray **);
    Tensor *tensors;
    void *impl;
    int (*resize_tensor)(Context *, Tensor *, IntArray *);
    void (*report_error)(Context *, const char *, ...);
    int (*add_tensors)(Context *, int, int *);
    int (*get_node)(Context *, int, Node **, Registration **);
    int (*replace)(Context *, Registration, const IntArray *, Delegate *);
};
struct Delegate {
    void *data;
    int (*prepare)(Context *, Delegate *);
    void *copy_from, *copy_to, *free_buffer;
    int64_t flags;
    void *opaque_delegate_builder;
};
_Static_assert(sizeof(Delegate) == 56, "TfLiteDelegate");
typedef struct { Delegate *delegate; IntArray *nodes, *input_tensors, *output_tensors; } Params;
typedef struct { int type; const char *path; } Device; /* libedgetpu's: 0 is PCI, 1 is USB */

/* the runner asks for this symbol and then shows no time */
const int edgekit_fake_delegate = 1;

static void say(const char *format, ...)
{
    const char *path = getenv("FAKE_LOG");
    FILE *stream = path ? fopen(path, "a") : NULL;
    if (!stream) return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stream, format, arguments);
    va_end(arguments);
    fputc('\n', stream);
    fclose(stream);
}

static int is(const char *name, const char *value) { return getenv(name) && !strcmp(getenv(name), value); }

static void crash_in(const char *place)
{
#ifdef CRASH
    if (!strcmp(CRASH, place)) raise(SIGSEGV);
#endif
    (void)place;
}

/* how many of a kind ("" is any) are plugged in */
static int plugged(const char *kind)
{
    const char *at = getenv("FAKE_DEVICES") ? getenv("FAKE_DEVICES") : "usb";
    int count = 0;
    while (*at) {
        size_t length = strcspn(at, ",");
        if (length && (!*kind || (strlen(kind) == length && !strncmp(at, kind, length)))) count++;
        at += length + (at[length] == ',');
    }
    return count;
}

static void *kernel_init(Context *context, const char *buffer, size_t length)
{
    const Params *params = (const Params *)buffer; /* of a delegate's kernel it is these */
    (void)context; (void)length;
    say("kernel of %d operators", params->nodes->size);
    return NULL;
}

static void kernel_free(Context *context, void *data) { (void)context; (void)data; }

static int kernel_prepare(Context *context, Node *node)
{
    (void)context; (void)node;
    crash_in("prepare");
    return 0;
}

static int kernel_invoke(Context *context, Node *node)
{
    crash_in("invoke");
    if (is("FAKE_INVOKE", "crash")) raise(SIGSEGV);
    while (is("FAKE_INVOKE", "hang")) sleep(1);
    if (is("FAKE_INVOKE", "slow")) nanosleep(&(struct timespec){0, 2000000}, NULL);
    const Tensor *in = &context->tensors[node->inputs->data[0]];
    for (int i = 0; i < node->outputs->size; i++) {
        Tensor *out = &context->tensors[node->outputs->data[i]];
        if (out->bytes == in->bytes && !is("FAKE_ANSWER", "wrong")) {
            memcpy(out->data, in->data, in->bytes);
            continue;
        }
        uint64_t hash = 1469598103934665603u; /* FNV-1a */
        for (size_t k = 0; k < in->bytes; k++) hash = (hash ^ ((unsigned char *)in->data)[k]) * 1099511628211u;
        for (size_t k = 0; k < out->bytes; k++) {
            hash = hash * 6364136223846793005u + 1442695040888963407u;
            ((unsigned char *)out->data)[k] = (unsigned char)(hash >> 56);
        }
    }
    return 0;
}

static int prepare(Context *context, Delegate *self)
{
    int claim = *(int *)self->data;
    IntArray *plan = NULL;
    if (context->get_execution_plan(context, &plan)) return 1;
    IntArray *taken = calloc(1, sizeof(IntArray) + sizeof(int) * (size_t)plan->size); /* the plan changes below: our own list */
    for (int i = 0; i < plan->size; i++) {
        Node *node = NULL;
        Registration *kind = NULL;
        if (context->get_node(context, plan->data[i], &node, &kind)) continue;
        int ours = kind->custom_name && !strcmp(kind->custom_name, "edgetpu-custom-op");
        if (ours || (claim >= 0 && kind->builtin_code == claim)) taken->data[taken->size++] = plan->data[i];
    }
    say("takes %d of %d operators", taken->size, plan->size);
    Registration kernel = {kernel_init, kernel_free, kernel_prepare, kernel_invoke, NULL, 51 /* DELEGATE */, "FakeDelegate", 1, NULL, NULL, 0};
#ifdef POISON /* what lies on the stack behind the 64 bytes of an old library */
    kernel.registration_external = (void *)(uintptr_t)0x4141414141414141;
#endif
    int status = taken->size ? context->replace(context, kernel, taken, self) : 0;
    free(taken);
    return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *))
{
    const char *device = "";
    int claim = -1;
    for (size_t i = 0; i < count; i++) {
        say("option %s=%s", keys[i], values[i]);
        if (!strcmp(keys[i], "device")) device = values[i];
        if (!strcmp(keys[i], "claim")) claim = atoi(values[i]);
        if (!strcmp(keys[i], "refuse") && report) { report(values[i]); return NULL; }
    }
    crash_in("create");
    char kind[8] = "";
    const char *colon = strchr(device, ':');
    size_t length = colon ? (size_t)(colon - device) : strlen(device);
    if (length >= sizeof kind) return NULL;
    memcpy(kind, device, length);
    int index = colon ? atoi(colon + 1) : 0;
    int known = !*kind || !strcmp(kind, "usb") || !strcmp(kind, "pci");
    if (!known || index < 0 || index >= plugged(kind)) { /* as libedgetpu: no word why */
        say("no device \"%s\"", device);
        return NULL;
    }
    Delegate *made = calloc(1, sizeof *made);
    made->data = malloc(sizeof(int));
    *(int *)made->data = claim;
    made->prepare = prepare;
    made->flags = 1; /* dynamic tensors are allowed */
    say("created for \"%s\"", device);
    return made;
}

void tflite_plugin_destroy_delegate(Delegate *delegate)
{
    say("destroyed");
    if (delegate) free(delegate->data);
    free(delegate);
}

Device *edgetpu_list_devices(size_t *count)
{
    static Device found[16];
    *count = 0;
    for (int i = 0; i < plugged("usb") && *count < 16; i++) found[(*count)++] = (Device){1, "/sys/bus/usb/devices/fake"};
    for (int i = 0; i < plugged("pci") && *count < 16; i++) found[(*count)++] = (Device){0, "/dev/apex_fake"};
    return *count ? found : NULL;
}

void edgetpu_free_devices(Device *devices) { (void)devices; }
const char *edgetpu_version(void) { return "FAKE BuildLabel(edgekit tests), RuntimeVersion(14)"; }
void edgetpu_verbosity(int level) { say("verbosity %d", level); }
