/* NVML as far as the appliance asks it, for two GPUs that are not there.

   Built by tests/unit/hardware/test_nvidia.py; a macro makes it one of the drivers met in the
   field. A function that is left out is how an old or damaged driver looks. */

#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#define OK 0
#define UNKNOWN 999
#define NOT_SUPPORTED 3
#define INSUFFICIENT_SIZE 7
#define DRIVER_NOT_LOADED 9
#define TIMEOUT 10
#define GPU_IS_LOST 15

typedef struct { unsigned long long total, free, used; } memory_t;

#ifdef INIT_FAILS
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return INIT_FAILS; }
#else
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return OK; }
#endif

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "Unknown Error"; }

#ifndef WITHOUT_COUNT
#ifndef COUNT
#define COUNT 2
#endif
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = COUNT; return OK; }
#endif

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
#ifdef SECOND_IS_LOST
    if (index == 1) return GPU_IS_LOST;
#endif
    *handle = (void *)(size_t)(index + 1);
    return OK;
}

#ifndef DEGRADED
int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    snprintf(text, length, "550.54.15");
    return OK;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned int length) {
    snprintf(text, length, "Fake L4 #%zu", (size_t)handle);
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned int length) {
    snprintf(text, length, "GPU-%08zu", (size_t)handle);
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
#ifdef UNIFIED
    (void)handle;
    (void)memory;
    return NOT_SUPPORTED;
#else
#ifdef SECOND_FELL_OFF
    if ((size_t)handle == 2) return GPU_IS_LOST;  /* its names are still remembered */
#endif
    memory->total = 24ULL << 30;
    memory->free = (24ULL << 30) - ((size_t)handle << 30);
    memory->used = (size_t)handle << 30;
    return OK;
#endif
}
#endif

#ifndef WITHOUT_EVENTS
typedef struct {
    void *device;
    unsigned long long type, data;
    unsigned int gpu_instance, compute_instance;
} event_t;

static int registered;

int nvmlEventSetCreate(void **set) { *set = (void *)&registered; return OK; }
int nvmlEventSetFree(void *set) { (void)set; return OK; }

int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, void *set) {
    (void)set;
#ifdef SECOND_HAS_NO_EVENTS
    if ((size_t)handle == 2) return NOT_SUPPORTED;
#endif
    if (types == 8) registered += (size_t)handle != 0;
    return OK;
}

/* One XID error, then silence; FAKE_XID says which. */
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned int milliseconds) {
    (void)set;
    const char *xid = getenv("FAKE_XID");
#ifdef WAIT_FAILS
    return UNKNOWN;
#endif
    if (xid == NULL || registered == 0) {
        usleep(milliseconds * 10);
        return TIMEOUT;
    }
    event->device = (void *)(size_t)1;
    event->type = 8;
    event->data = strtoull(xid, NULL, 10);
    unsetenv("FAKE_XID");
    return OK;
}
#endif

#ifndef WITHOUT_PROCESSES
typedef struct {
    unsigned int pid;
    unsigned long long memory;
    unsigned int gpu_instance, compute_instance;
} process_t;

/* FAKE_PID computes on the first GPU. */
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *found) {
    const char *pid = getenv("FAKE_PID");
    if (pid == NULL || (size_t)handle != 1) { *count = 0; return OK; }
    if (*count == 0) { *count = 1; return INSUFFICIENT_SIZE; }
    *count = 1;
    found[0].pid = (unsigned int)strtoul(pid, NULL, 10);
    found[0].memory = 1ULL << 30;
    return OK;
}
#endif

#ifndef WITHOUT_LOADS
typedef struct { unsigned int gpu, memory; } rates_t;

int nvmlDeviceGetUtilizationRates(void *handle, rates_t *rates) {
    rates->gpu = 10 * (unsigned int)(size_t)handle;
    rates->memory = 5;
    return OK;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) {
    if (sensor != 0) return NOT_SUPPORTED;
    *celsius = 60 + (unsigned int)(size_t)handle;
    return OK;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned int *milliwatts) {
    *milliwatts = 72500 * (unsigned int)(size_t)handle;
    return OK;
}
#endif
