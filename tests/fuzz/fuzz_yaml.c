/* fuzz_yaml.c: published configurations: the flat mapping, then what its keys set. */
#include <string.h>

#include "cli.h"
#include "fuzz.h"

static void check_map(const uint8_t *data, size_t size) {
    yaml_map m;
    ovi_message message = {{0}};
    if (!yaml_map_parse(&m, (const char *)data, size, &message)) {
        FUZZ_HOLDS(m.n == 0 && strncmp(message.text, "line ", 5) == 0);
        return;
    }
    FUZZ_HOLDS(m.n <= YAML_MAX_KEYS);
    for (size_t i = 0; i < m.n; i++)
        FUZZ_HOLDS(m.entry[i].key && m.entry[i].line >= 1);
    yaml_map_release(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ovi_message message = {{0}};
    cli_args args = {.repeat = 1};
    ovi_settings_init(&args.settings);
    ovi_request_init(&args.request);
    check_map(data, size);
    const char *path = fuzz_file(data, size);
    if (config_apply(&args, path, &message))
        FUZZ_HOLDS(args.repeat >= 1 && args.repeat <= CLI_MAX_REPEATS);
    else
        FUZZ_HOLDS(strncmp(message.text, path, strlen(path)) == 0);
    cli_args_release(&args);
    return 0;
}
