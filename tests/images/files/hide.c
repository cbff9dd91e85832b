/* A process hider's shape: a library that filters what readdir tells. This one hides nothing real. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <string.h>

struct dirent *readdir(DIR *dir)
{
    struct dirent *(*next)(DIR *) = dlsym(RTLD_NEXT, "readdir");
    struct dirent *entry;
    do
        entry = next(dir);
    while (entry && strcmp(entry->d_name, "lab-hidden") == 0);
    return entry;
}
