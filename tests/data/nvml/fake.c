/* NVML as far as the appliance asks it, for two GPUs that are not there.

   Built by tests/unit/hardware/test_nvidia.py; a macro makes it one of the drivers met in the
   field. A function that is left out is how an old or damaged driver looks. */

#include <stdio.h>
#include <stddef.h>

#define OK 0
#define UNKNOWN 999
#define NOT_SUPPORTED 3
#define DRIVER_NOT_LOADED 9
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
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return OK; }
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
    memory->total = 24ULL << 30;
    memory->free = (24ULL << 30) - ((size_t)handle << 30);
    memory->used = (size_t)handle << 30;
    return OK;
#endif
}
#endif
