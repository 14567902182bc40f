/* fake_empty.c: a library that is there. */
int fake_nothing(void);
int fake_nothing(void) {
    return 0;
}
