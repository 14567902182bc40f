/* cmd_devices.c: what can compute here, as a table for people or JSON for programs. */
#include <jansson.h>
#include <stdio.h>

#include "cli.h"

static json_t *device_json(const ovi_device_info *d) {
    return json_pack("{s:s, s:s, s:b, s:s, s:I, s:I, s:s}", "name", d->name, "what",
                     d->what, "usable", d->usable, "missing", d->missing, "memory_total",
                     (json_int_t)d->memory_total, "memory_free",
                     (json_int_t)d->memory_free, "dtype", d->dtype);
}

static void print_device(const ovi_device_info *d) {
    char total[32], free_now[32];
    if (d->usable)
        printf("%-8s %10s of %10s free  %-4s  %s\n", d->name,
               d->memory_free ? cli_bytes(free_now, d->memory_free) : "unknown",
               cli_bytes(total, d->memory_total), d->dtype, d->what);
    if (d->usable && d->missing[0])
        printf("%-8s %s\n", "", d->missing);
    if (!d->usable)
        printf("%-8s not usable: %s\n", d->name, d->missing);
}

int cli_devices(cli_args *args) {
    ovi_device_info d;
    int code = EXIT_FAILED;
    json_t *list = json_array();
    cli_find_places(&args->settings);
    for (int i = 0; ovi_device_at(&args->settings, i, &d); i++) {
        if (d.usable)
            code = EXIT_DONE;
        if (args->json)
            json_array_append_new(list, device_json(&d));
        else
            print_device(&d);
    }
    if (args->json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(list);
    return code;
}
