package scope_test

import (
	"runtime"
	"testing"

	"github.com/openkcm/krypton-cluster/memsec/internal/scope"
)

func TestI1_RunsOnceOnTheCallersGoroutine(t *testing.T) {
	n := 0
	scope.Do(func() { n++ })
	if n != 1 {
		t.Errorf("ran %d times", n)
	}
	deep := false
	scope.Do(func() { scope.Do(func() { deep = true }) })
	if !deep {
		t.Error("a nested scope did not run")
	}
}

func TestI1_PanicReachesTheCaller(t *testing.T) {
	defer func() {
		if p := recover(); p != "stop" {
			t.Errorf("recovered %v", p)
		}
	}()
	scope.Do(func() { panic("stop") })
	t.Error("the panic was swallowed")
}

func TestI1_GoexitEndsTheGoroutine(t *testing.T) {
	done := make(chan bool)
	go func() {
		returned := false
		defer func() { done <- returned }()
		scope.Do(runtime.Goexit)
		returned = true
	}()
	if <-done {
		t.Error("Goexit was swallowed")
	}
}
