// Package shift runs a program, unmodified, whose wall clock is off.
//
// A test with a fake clock shows what code does with times; this shows what the
// program does on a machine whose date is another: certificates that have ended, a
// cluster that was switched off for months. Only CLOCK_REALTIME moves. Time that
// passes is that of the machine, so nothing waits longer or shorter.
//
// Go programs read the clock in the vDSO, without a call of the kernel. A shim in the
// new process asks the kernel to hand reads of the wall clock to its parent (seccomp,
// user notification) and becomes the program; the parent hides the vDSO from it and
// lets it go, then answers each read with its own clock and the difference.
//
// # Invariants
//
//   - I1: the program is the unmodified file, with its own arguments and environment.
//   - I2: every wall clock time that the program reads is off by the same duration, on all of its threads.
//   - I3: the program is gone when the process that started it is.
//
// # Concurrency
//
// The methods of a [Process] are safe for concurrent use.
//
// # Failure
//
// A program that cannot be shifted is not run. Where the kernel does not let a
// process be traced or filtered, [Start] says so.
//
// # Source
//
// seccomp_unotify(2), ptrace(2), vdso(7), getauxval(3).
package shift
