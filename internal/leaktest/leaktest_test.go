package leaktest_test

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/leaktest"
)

func TestI1_AGoroutineThatIsNotNamedIsALeak(t *testing.T) {
	if err := goleak.Find(leaktest.Known()...); err != nil {
		t.Fatalf("before there is one: %v", err)
	}
	release, started := make(chan struct{}), make(chan struct{})
	go forgotten(started, release)
	<-started
	err := goleak.Find(leaktest.Known()...)
	close(release)
	if err == nil || !strings.Contains(err.Error(), "forgotten") {
		t.Errorf("the leak is not named: %v", err)
	}
}

func forgotten(started, release chan struct{}) {
	close(started)
	<-release
}
