/* Shifts the wall clock of a Python process that loads it (LD_PRELOAD) by the number of seconds in the file SECONDS,
   an eight-byte integer. It affects only Python: Triton waits until a wall-clock time, and the kernel, whose clock is
   not shifted, would time these waits wrongly. It uses no headers and no start files, so a compiler is enough. */

typedef long time_t;
struct timespec { time_t seconds; long nanoseconds; };
struct timeval { time_t seconds; long microseconds; };

extern char *program_invocation_short_name;
extern void *dlsym(void *, const char *);
extern int open(const char *, int, ...);
extern void *mmap(void *, unsigned long, int, int, int, long);

#define NEXT ((void *)-1L) /* RTLD_NEXT */
#define REALTIME 0         /* CLOCK_REALTIME */
#define REALTIME_COARSE 5

static volatile const long *offset;

__attribute__((constructor)) static void begin(void) {
  if (*program_invocation_short_name != 'p') return; /* not python */
  int file = open(SECONDS, 0);
  void *page = mmap(0, 8, 1 /* PROT_READ */, 1 /* MAP_SHARED */, file, 0);
  if (page != (void *)-1L) offset = page;
}

static long shift(void) { return offset ? *offset : 0; }

int clock_gettime(int clock, struct timespec *time) {
  static int (*real)(int, struct timespec *);
  if (!real) real = (int (*)(int, struct timespec *))dlsym(NEXT, "clock_gettime");
  int failed = real(clock, time);
  if (!failed && (clock == REALTIME || clock == REALTIME_COARSE)) time->seconds += shift();
  return failed;
}

int gettimeofday(struct timeval *time, void *zone) {
  static int (*real)(struct timeval *, void *);
  if (!real) real = (int (*)(struct timeval *, void *))dlsym(NEXT, "gettimeofday");
  int failed = real(time, zone);
  if (!failed) time->seconds += shift();
  return failed;
}

time_t time(time_t *into) {
  static time_t (*real)(time_t *);
  if (!real) real = (time_t (*)(time_t *))dlsym(NEXT, "time");
  time_t now = real(0) + shift();
  if (into) *into = now;
  return now;
}
