// A stand-in for NVRTC: takes any text, and makes an image that the stand-in driver takes.
#include <stddef.h>
#include <string.h>

int nvrtcVersion(int *major, int *minor) { *major = 13, *minor = 0; return 0; }
const char *nvrtcGetErrorString(int code) { return code ? "NVRTC_ERROR" : "NVRTC_SUCCESS"; }
int nvrtcCreateProgram(void **program, const char *text, const char *name, int n, const char *const *headers,
                       const char *const *names) {
    for (int i = 0; i < n; i++)
        if (!strlen(headers[i]) || !strstr(names[i], ".cuh")) return 1;
    *program = (void *)text;
    return strlen(text) && strstr(name, ".cu") ? 0 : 1;
}
int nvrtcDestroyProgram(void **program) { *program = 0; return 0; }
int nvrtcCompileProgram(void *program, int n, const char *const *options) {
    return n == 3 && !strcmp(options[0], "--gpu-architecture=sm_90a") ? 0 : 6;
}
int nvrtcGetProgramLogSize(void *program, size_t *bytes) { *bytes = 1; return 0; }
int nvrtcGetProgramLog(void *program, char *log) { *log = 0; return 0; }
int nvrtcGetCUBINSize(void *program, size_t *bytes) { *bytes = 4; return 0; }
int nvrtcGetCUBIN(void *program, char *cubin) { memcpy(cubin, "\177ELF", 4); return 0; }
