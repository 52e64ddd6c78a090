package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

func read() Reading {
	var raw, boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &raw) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		// Every kernel since 2.6.39 has both; the calls have no other error.
		panic("clock: the kernel has no CLOCK_MONOTONIC_RAW or CLOCK_BOOTTIME")
	}
	return Reading{Raw: time.Duration(raw.Nano()), Boot: time.Duration(boot.Nano()), Wall: time.Duration(time.Now().UnixNano())}
}
