//go:build !race

package lease_test

const schedules = 6000
