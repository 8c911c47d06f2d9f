// Stands in for libnvidia-ml: one GPU, which has reported two errors.
#include <string.h>
typedef unsigned long long u64;
static int left = 2;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "an error"; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **gpu) { *gpu = &left; return strcmp(uuid, "GPU-0000-1") ? 6 : 0; }
int nvmlDeviceGetUtilizationRates(void *gpu, unsigned *rates) { rates[0] = 87, rates[1] = 40; return 0; }
int nvmlDeviceGetMemoryInfo(void *gpu, u64 *memory) { memory[0] = 24ull << 30, memory[1] = 20ull << 30, memory[2] = 4ull << 30; return 0; }
int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *degrees) { *degrees = 71; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, u64 *reasons) { *reasons = 0x40; return 0; }
int nvmlEventSetCreate(void **set) { *set = &left; return 0; }
int nvmlDeviceRegisterEvents(void *gpu, u64 kinds, void *set) { return kinds == 8 ? 0 : 2; }
int nvmlEventSetWait_v2(void *set, void *data, unsigned ms) {
  struct { void *gpu; u64 kind, number; unsigned a, b; } event = {&left, 8, 79, 0, 0};
  if (!left) return 10;  // timeout
  left--;
  memcpy(data, &event, sizeof event);
  return 0;
}
