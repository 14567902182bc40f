/* test_cgroup.c: limits of control groups, read from a folder that stands for the system's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/cgroup.h"
#include "core/os.h"

#define V2_MOUNT "30 20 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"
#define V1_MOUNTS                                                                        \
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"                         \
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"         \
    "37 31 0:34 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
#define UNLIMITED "9223372036854771712\n"

static char root[64];

static int make_root(void **state) {
    (void)state;
    strcpy(root, "/tmp/ovi-test-cgroup-XXXXXX");
    assert_non_null(mkdtemp(root));
    return 0;
}

static int drop_root(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

static void put(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    *strrchr(path, '/') = '\0';
    os_make_folders(path);
    path[strlen(path)] = '/';
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

static void put_group(const char *folder, const char *limit, const char *used,
                      const char *stat) {
    char name[256];
    const bool old = strstr(folder, "/memory") != NULL;
    snprintf(name, sizeof name, "%s/%s", folder,
             old ? "memory.limit_in_bytes" : "memory.max");
    put(name, limit);
    snprintf(name, sizeof name, "%s/%s", folder,
             old ? "memory.usage_in_bytes" : "memory.current");
    put(name, used);
    snprintf(name, sizeof name, "%s/memory.stat", folder);
    put(name, stat);
}

static void without_groups_there_is_no_limit(void **state) {
    (void)state;
    assert_true(cgroup_left(root) == SIZE_MAX);
    put("proc/self/mountinfo", "25 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n");
    put("proc/self/cgroup", "0::/\n");
    assert_true(cgroup_left(root) == SIZE_MAX);
}

/* Page cache can be taken back; what is above bounds what is below. */
static void version_2_is_read_up_to_the_top(void **state) {
    (void)state;
    put("proc/self/mountinfo", V2_MOUNT);
    put("proc/self/cgroup", "0::/system.slice/ovi.service\n");
    put_group("sys/fs/cgroup/system.slice/ovi.service", "max\n", "5000\n", "file 10\n");
    assert_true(cgroup_left(root) == SIZE_MAX);
    put_group("sys/fs/cgroup/system.slice/ovi.service", "8000\n", "5000\n",
              "anon 1000\nfile 4000\nactive_file 2500\ninactive_file 1500\nshmem 0\n");
    assert_int_equal(cgroup_left(root), 7000);
    put_group("sys/fs/cgroup/system.slice", "9000\n", "7000\n", "inactive_file 1000\n");
    assert_int_equal(cgroup_left(root), 3000);
    put_group("sys/fs/cgroup/system.slice", "5000\n", "7000\n", "inactive_file 1000\n");
    assert_int_equal(cgroup_left(root), 0);
}

/* In a container the group is the root of what is mounted, or seems to be. */
static void version_2_in_a_container(void **state) {
    (void)state;
    put("proc/self/mountinfo", V2_MOUNT);
    put("proc/self/cgroup", "0::/\n");
    put_group("sys/fs/cgroup", "4096\n", "96\n", "");
    assert_int_equal(cgroup_left(root), 4000);
    put("proc/self/cgroup", "0::/../outside\n");
    assert_int_equal(cgroup_left(root), 4000);
}

static void version_1_is_read_too(void **state) {
    (void)state;
    put("proc/self/mountinfo", V1_MOUNTS);
    put("proc/self/cgroup", "4:memory:/jobs/a\n3:cpuset:/\n0::/\n");
    put_group("sys/fs/cgroup/memory/jobs/a", UNLIMITED, "5000\n", "");
    put_group("sys/fs/cgroup/memory", UNLIMITED, "9000\n", "");
    assert_true(cgroup_left(root) > (size_t)1 << 60);
    put_group("sys/fs/cgroup/memory/jobs", "7000\n", "6500\n",
              "active_file 6500\ntotal_active_file 300\ntotal_inactive_file 200\n");
    assert_int_equal(cgroup_left(root), 1000);
}

/* Docker: the mount shows our part of the tree, the path is that of the whole. */
static void version_1_in_a_container(void **state) {
    (void)state;
    put("proc/self/mountinfo",
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    put("proc/self/cgroup", "5:cpu,memory:/docker/abc/inner\n");
    put_group("sys/fs/cgroup/memory/inner", UNLIMITED, "10\n", "");
    put_group("sys/fs/cgroup/memory", "3000\n", "1000\n", "");
    assert_int_equal(cgroup_left(root), 2000);
    put("proc/self/cgroup", "5:cpu,memory:/docker/other\n");
    assert_int_equal(cgroup_left(root), 2000);
}

static void what_is_free_is_within_the_limits(void **state) {
    (void)state;
    assert_true(os_free_memory() > 0);
    assert_true(os_free_memory() <= os_total_memory());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_groups_there_is_no_limit, make_root,
                                        drop_root),
        cmocka_unit_test_setup_teardown(version_2_is_read_up_to_the_top, make_root,
                                        drop_root),
        cmocka_unit_test_setup_teardown(version_2_in_a_container, make_root, drop_root),
        cmocka_unit_test_setup_teardown(version_1_is_read_too, make_root, drop_root),
        cmocka_unit_test_setup_teardown(version_1_in_a_container, make_root, drop_root),
        cmocka_unit_test(what_is_free_is_within_the_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
