/* test_cuda_libraries.c: a device that is not used says why, and NVIDIA's libraries are found in
 * all places where they may lie: the command, on a machine whose folders this test makes
 * (fake/fake_places.c) and whose GPU is played (fake/fake_gpu.h). */
#include <stdbool.h>
#include <sys/stat.h>

#include "engine_fixture.h"

#define OVI      FAKE_DIR "/bin/command/ovi"
#define DRIVER   "libcuda.so.1"
#define CUBLAS   "libcublasLt.so.13"
#define MODULE   "libovi_cuda.so"
#define CUDNN    "libcudnn.so.9"
#define COMPILER "libnvrtc.so.13"

/* The machine: a new, empty one in every test. */
static char machine[64];

static int make_machine(void **state) {
    static int n;
    (void)state;
    snprintf(machine, sizeof machine, "%s/machine%d", root, n++);
    return mkdir(machine, 0777);
}

/* A file of the machine's, its folders made; from: NULL: a file that is no library. */
static void put(const char *folder, const char *file, const char *from) {
    char line[1024];
    snprintf(line, sizeof line, "mkdir -p %s/%s && %s%s %s/%s/%s", machine, folder,
             from ? "cp " FAKE_DIR "/" : "echo no library >", from ? from : "", machine,
             folder, file);
    assert_int_equal(system(line), 0);
}

static void put_library(const char *folder, const char *file) {
    put(folder, file, file);
}

/* What the command says there, with this before it in the environment. */
static const char *say(const char *environment, const char *arguments) {
    static char text[8192];
    char line[2048];
    snprintf(line, sizeof line,
             "cd %s && env -i PATH=/usr/bin:/bin HOME=%s/home FAKE_PLACES=%s %s " OVI
             " %s 2>&1",
             machine, machine, machine, environment, arguments);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    pclose(f);
    return text;
}

static void expect(const char *environment, const char *arguments, const char *words) {
    const char *text = say(environment, arguments);
    if (!strstr(text, words))
        fail_msg("expected \"%s\" in:\n%s", words, text);
}

static const char usable[] = "fake GPU, compute capability 9.0";

static void what_is_missing_is_named(void **state) {
    (void)state;
    expect("", "devices",
           "there is no NVIDIA driver here (libcuda.so.1; Debian: nvidia-driver)");
    put_library("loader", DRIVER);
    expect("", "devices",
           "libcublasLt.so.13 was not found (CUDA 13: package libcublas-13-0, or pip's "
           "nvidia-cublas)");
    put_library("loader", CUBLAS);
    expect("", "devices", "libovi_cuda.so was not found: it is built where nvcc is");
    put_library("loader", MODULE);
    expect("", "devices", usable);
    expect("FAKE_GPU=old=1", "devices",
           "the NVIDIA driver is too old: CUDA 13 needs version 580 or later");
    expect("FAKE_GPU=devices=0", "devices", "there is no NVIDIA GPU here");
    expect("FAKE_GPU=devices=2", "devices", "cuda:1");
    expect("FAKE_GPU=sm=75", "devices",
           "cuda:0   not usable: GPU 0 has compute capability 7.5");
    expect("FAKE_GPU='devices=2 second=61'", "devices", "cuda:1   not usable: GPU 1");
    /* Without the driver's library nobody says what is free. */
    expect("", "devices", "unknown of    8.59 GB free");
}

static void what_insists_on_a_gpu_hears_why_not(void **state) {
    (void)state;
    char line[512];
    snprintf(line, sizeof line, "generate --models %s --device cuda -o a.wav x",
             in_root("micro"));
    expect("", line, "ovi: no GPU can be used: there is no NVIDIA driver here");
    put_library("loader", DRIVER);
    put_library("loader", CUBLAS);
    put_library("loader", MODULE);
    expect("FAKE_GPU=sm=75", line,
           "GPU 0 has compute capability 7.5: expected 8.0 or later");
}

static void what_does_not_open_is_not_called_missing(void **state) {
    (void)state;
    put("loader", DRIVER, NULL);
    expect("", "devices", "libcuda.so.1 does not open: ");
    put_library("loader", DRIVER);
    put("usr/local/cuda/lib64", CUBLAS, NULL);
    expect("", "devices", "libcublasLt.so.13 does not open: ");
    expect("", "devices", "usr/local/cuda/lib64/libcublasLt.so.13: file too short");
    put_library("usr/lib/python3.12/dist-packages/nvidia/cu13/lib", CUBLAS);
    expect("", "devices", "libovi_cuda.so was not found: it is built where nvcc is");
    put("mine", MODULE, NULL);
    expect("OVI_CUDA_LIBS=mine", "devices",
           "libovi_cuda.so does not open: mine/libovi_cuda.so: file too short");
    put_library("mine", MODULE);
    expect("OVI_CUDA_LIBS=mine", "devices", usable);
    put("loader", MODULE, NULL);
    expect("", "devices", "libovi_cuda.so does not open: ");
    expect("", "devices", "loader/libovi_cuda.so: file too short");
}

/* Each place alone serves. */
static void libraries_are_found_in_every_place(void **state) {
    (void)state;
    static const struct {
        const char *folder, *environment;
    } places[] = {
        {"loader", ""},
        {"usr/local/cuda/lib64", ""},
        {"usr/local/lib/python3.12/dist-packages/nvidia/cublas/lib", ""},
        {"usr/local/lib/python3.13/site-packages/nvidia/cu13/lib", ""},
        {"usr/lib/python3.11/dist-packages/nvidia/cu13/lib", ""},
        {"opt/conda/lib/python3.12/site-packages/nvidia/cu13/lib", ""},
        {"mine", "OVI_CUDA_LIBS=nowhere:mine"},
        {"packages/nvidia/cu13/lib", "OVI_CUDA_LIBS=packages"},
        {"tree/lib/python3.12/site-packages/nvidia/cublas/lib", "OVI_CUDA_LIBS=tree"},
        {"env/lib/python3.12/site-packages/nvidia/cublas/lib", "VIRTUAL_ENV=env"},
        {"home/.local/lib/python3.12/site-packages/nvidia/cu13/lib", ""}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        make_machine(state);
        put_library("loader", DRIVER);
        put_library("loader", MODULE);
        expect(places[i].environment, "devices", "libcublasLt.so.13 was not found");
        put_library(places[i].folder, CUBLAS);
        expect(places[i].environment, "devices", usable);
    }
    expect("OVI_CUDA_LIBS=elsewhere", "devices --libraries elsewhere", "not found");
}

/* ---- cuDNN and its compiler: wanted, not needed ---- */

static const char *plan(const char *environment) {
    static char line[512];
    snprintf(line, sizeof line, "plan --models %s --device cuda --log-level debug",
             in_root("micro"));
    const char *text = say(environment, line);
    if (!strstr(text, "decode_video"))
        fail_msg("no plan: %s", text);
    return text;
}

static void expect_plan(const char *environment, const char *words) {
    const char *text = plan(environment);
    if (!strstr(text, words))
        fail_msg("expected \"%s\" in:\n%s", words, text);
}

/* By plans, and by the list of devices, which opens none. */
static void expect_slower(const char *environment, const char *words) {
    expect_plan(environment, words);
    expect(environment, "devices", words);
    expect(environment, "devices", "fake GPU, compute capability ");
}

static void without_cudnn_it_is_said_why(void **state) {
    (void)state;
    put_library("loader", DRIVER);
    put_library("loader", CUBLAS);
    put_library("loader", MODULE);
    expect_slower("",
                  "without cuDNN, which is slower: libcudnn.so.9 was not found (package "
                  "libcudnn9-cuda-13, or pip's nvidia-cudnn-cu13)");
    put("usr/local/lib/python3.12/dist-packages/nvidia/cudnn/lib", CUDNN, NULL);
    expect_slower("", "without cuDNN, which is slower: libcudnn.so.9 does not open: ");
    put("usr/local/cuda/lib64", CUDNN, CUBLAS);
    expect_slower("", "libcudnn.so.9 lacks functions of cuDNN 9");
    put_library("loader", CUDNN);
    expect_slower("FAKE_CUDNN=91100", "is cuDNN 9.11.0: expected 9.14 or later");
    expect_plan("FAKE_CUDNN_STUCK=1",
                "cuDNN 9.19.0 does not start: a fake error of cuDNN");
    expect_plan("", "cuDNN 9.19.0 from ");
    assert_null(strstr(plan(""), "slower"));
    assert_null(strstr(say("", "devices"), "which is slower"));
}

static void without_its_compiler_it_is_said_why(void **state) {
    (void)state;
    static const char words[] =
        "attention without cuDNN, which is slower: libnvrtc.so.13 was not found (package "
        "cuda-nvrtc-13-0, or pip's nvidia-cuda-nvrtc)";
    put_library("loader", DRIVER);
    put_library("loader", CUBLAS);
    put_library("loader", MODULE);
    put_library("tree/lib/python3.12/site-packages/nvidia/cudnn/lib", CUDNN);
    expect_slower("OVI_CUDA_LIBS=tree FAKE_GPU=sm=86", words);
    assert_null(strstr(plan("OVI_CUDA_LIBS=tree FAKE_GPU=sm=90"), "slower"));
    put("tree/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib", COMPILER, CUBLAS);
    assert_null(strstr(plan("OVI_CUDA_LIBS=tree FAKE_GPU=sm=86"), "slower"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_is_missing_is_named, make_machine),
        cmocka_unit_test_setup(what_insists_on_a_gpu_hears_why_not, make_machine),
        cmocka_unit_test_setup(what_does_not_open_is_not_called_missing, make_machine),
        cmocka_unit_test_setup(libraries_are_found_in_every_place, make_machine),
        cmocka_unit_test_setup(without_cudnn_it_is_said_why, make_machine),
        cmocka_unit_test_setup(without_its_compiler_it_is_said_why, make_machine),
    };
    return cmocka_run_group_tests(tests, make_micro, remove_root);
}
