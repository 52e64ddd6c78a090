// Package steps runs a program under ptrace and stops it at every step that the disk or a caller could notice.
//
// A step is a system call that changes the watched directory (create, write,
// truncate, sync, rename, remove, change of mode) or, if asked for, that writes
// to a socket: the answer. [Process.Arm] chooses one of them, and what happens
// in the instant before it:
//
//   - [Kill]: the process is gone, what it had written is in the files (kill -9).
//   - [PowerCut]: the process is gone, and of the directory only that is left
//     which it had synced: contents of files by fsync of the file, names by fsync of
//     the directory. [Process.Restore] puts the directory into that state.
//   - [Term]: it gets SIGTERM and goes on.
//
// What happens after a step is what happens before the next one. So all that is
// needed to see every state that a death can leave is to let a program die
// before step 1, 2, 3, and so on.
//
// The program needs no code for this and is the one that is shipped. One thing is
// changed: it stays "dumpable" (prctl), so that names can be read out of it
// without privileges.
//
// # Invariants
//
//   - I1: a step is counted before it is done; a process that was killed at a step did not do it.
//   - I2: after [PowerCut] nothing is in the directory that was not synced, and everything that was.
//   - I3: the traced program dies with the tracer.
//   - I4: no other child of this process is waited for.
//
// # Concurrency
//
// Each process has one goroutine on a thread of its own, because ptrace belongs
// to a thread; it ends with the process. The methods of a Process may be called
// from anywhere.
//
// # Failure
//
// Where the kernel does not let a process trace its child, [Start] says so. What
// goes wrong later ends the process and is the error of [Process.Wait].
//
// # Source
//
// ptrace(2), seccomp(2); "All File Systems Are Not Created Equal" (OSDI 2014) for
// the model of a power cut, here without what single file systems add.
package steps
