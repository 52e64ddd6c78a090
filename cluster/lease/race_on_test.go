//go:build race

package lease_test

// schedules of TestExplorer: the race detector makes each ten times as slow.
const schedules = 1000
