// A PKCS#11 module that stands before another one and breaks calls on demand.
//
// FAULTS_MODULE is the module behind it. FAULTS_CONTROL is a file whose first
// word says what happens to C_FindObjectsInit, which every call of Krypton's
// helper begins with, and to encryption:
//
//	hang         the search does not come back while the file says so
//	slow MS      the search comes back MS milliseconds late
//	fail CKR     the search returns CKR
//	crash        the search ends the process by a signal
//	nonsense     the search finds more objects than it has handles for
//	logout       the search logs the user out first; once
//	broken CKR   C_Decrypt and C_UnwrapKey return CKR
//	iv           C_Encrypt writes its own IV over the caller's, as some tokens do
//	short        C_Encrypt under GCM answers with a shorter tag than asked for
//
// FAULTS_CONTROL.login says hang or fail CKR for C_Login.
// Each log-in adds a byte to FAULTS_CONTROL.logins. A search that begins to hang
// writes a byte into the pipe FAULTS_CONTROL.hangs, if somebody reads there.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef ulong_t (*fn)();

// CK_FUNCTION_LIST: a version, and the functions in the order of the standard.
struct list { unsigned char version[2]; fn f[68]; };
enum { GET_FUNCTION_LIST = 3, LOGIN = 18, LOGOUT = 19, FIND_INIT = 26, FIND = 27, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT = 34, UNWRAP_KEY = 61 };

struct mechanism { ulong_t type; void *param; ulong_t len; };
struct gcm { unsigned char *iv; ulong_t ivlen, ivbits; void *aad; ulong_t aadlen, tagbits; };

static struct list real, ours;

static const char *control(const char *suffix) {
	static _Thread_local char path[4096];
	snprintf(path, sizeof path, "%s%s", getenv("FAULTS_CONTROL"), suffix);
	return path;
}

static char *word(const char *suffix, char *buf, size_t n, ulong_t *number) {
	buf[0] = 0;
	int fd = open(control(suffix), O_RDONLY);
	if (fd < 0) return buf;
	ssize_t got = read(fd, buf, n - 1);
	close(fd);
	buf[got > 0 ? got : 0] = 0;
	char *rest = strchr(buf, ' ');
	*number = rest ? strtoul(rest + 1, NULL, 0) : 0;
	buf[strcspn(buf, " \n")] = 0;
	return buf;
}

static int says(const char *suffix, const char *what) {
	char buf[64];
	ulong_t number;
	return strcmp(word(suffix, buf, sizeof buf, &number), what) == 0;
}

static ulong_t find_init(ulong_t s, void *t, ulong_t n) {
	char buf[64];
	ulong_t number = 0;
	char *w = word("", buf, sizeof buf, &number);
	if (!strcmp(w, "hang")) {
		int fd = open(control(".hangs"), O_WRONLY | O_NONBLOCK);
		if (fd >= 0 && write(fd, ".", 1) != 1) abort();
		if (fd >= 0) close(fd);
		while (says("", "hang")) usleep(5000);
	}
	if (!strcmp(w, "slow")) usleep(number * 1000);
	if (!strcmp(w, "fail")) return number;
	if (!strcmp(w, "crash")) { kill(getpid(), SIGKILL); pause(); }
	if (!strcmp(w, "logout")) {
		unlink(control(""));
		real.f[LOGOUT](s);
	}
	return real.f[FIND_INIT](s, t, n);
}

static ulong_t find(ulong_t s, ulong_t *objects, ulong_t max, ulong_t *count) {
	ulong_t rv = real.f[FIND](s, objects, max, count);
	if (says("", "nonsense")) *count = 1UL << 40;
	return rv;
}

static ulong_t login(ulong_t s, ulong_t user, unsigned char *pin, ulong_t n) {
	char buf[64];
	ulong_t number = 0;
	char *w = word(".login", buf, sizeof buf, &number);
	int fd = open(control(".logins"), O_WRONLY | O_APPEND | O_CREAT, 0600);
	if (fd >= 0) {
		if (write(fd, ".", 1) != 1) abort();
		close(fd);
	}
	if (!strcmp(w, "fail")) return number;
	if (!strcmp(w, "hang")) while (says(".login", "hang")) usleep(5000);
	return real.f[LOGIN](s, user, pin, n);
}

// The token's own IV is the caller's with every bit changed.
static ulong_t encrypt_init(ulong_t s, struct mechanism *m, ulong_t key) {
	if (m->type == 0x1087 && says("", "iv")) {
		struct gcm *g = m->param;
		for (ulong_t i = 0; i < g->ivlen; i++) g->iv[i] ^= 0xFF;
	}
	if (m->type == 0x1087 && says("", "short")) ((struct gcm *)m->param)->tagbits = 96;
	return real.f[ENCRYPT_INIT](s, m, key);
}

static ulong_t broken(void) {
	char buf[64];
	ulong_t number = 0;
	return strcmp(word("", buf, sizeof buf, &number), "broken") ? 0 : number;
}

static ulong_t decrypt(ulong_t s, void *in, ulong_t n, void *out, ulong_t *outn) {
	ulong_t rv = broken();
	return rv ? rv : real.f[DECRYPT](s, in, n, out, outn);
}

static ulong_t unwrap_key(ulong_t s, void *m, ulong_t key, void *in, ulong_t n, void *t, ulong_t tn, ulong_t *h) {
	ulong_t rv = broken();
	return rv ? rv : real.f[UNWRAP_KEY](s, m, key, in, n, t, tn, h);
}

static ulong_t get_function_list(void **out) { *out = &ours; return 0; }

ulong_t C_GetFunctionList(void **out) {
	const char *path = getenv("FAULTS_MODULE");
	void *lib = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
	ulong_t (*get)(void **) = lib ? (ulong_t (*)(void **))dlsym(lib, "C_GetFunctionList") : NULL;
	struct list *l;
	if (!get || get((void **)&l) != 0) return 5; // CKR_GENERAL_ERROR
	real = ours = *l;
	ours.f[GET_FUNCTION_LIST] = (fn)get_function_list;
	ours.f[FIND_INIT] = (fn)find_init;
	ours.f[FIND] = (fn)find;
	ours.f[LOGIN] = (fn)login;
	ours.f[ENCRYPT_INIT] = (fn)encrypt_init;
	ours.f[DECRYPT] = (fn)decrypt;
	ours.f[UNWRAP_KEY] = (fn)unwrap_key;
	*out = &ours;
	return 0;
}
