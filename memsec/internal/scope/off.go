//go:build !goexperiment.runtimesecret

package scope

// Erases reports whether [Do] erases what the function left in registers, on
// the stack and, after a collection, on the heap.
const Erases = false

// Do runs fn. This build cannot erase what it leaves behind.
func Do(fn func()) { fn() }
