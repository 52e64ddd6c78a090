package audit_test

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// later appends a record on a goroutine of its own.
func later(l *audit.Log, class audit.Class, n int) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.Append(audittest.Record(class, n)) }()
	return done
}

// The old segment must not be closed under a running fsync. The one fsync of the
// change then serves everybody who waits for one.
func TestAChangeOfSegmentsAndAnFsyncDoNotMeet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fsys := audittest.NewFS(audit.OS{})
		l := bubbled(t, dir, fsys, func(c *audit.Config) { c.SegmentBytes = audit.MinSegmentBytes })
		syncs, creates := fsys.Count(audittest.OpSync), fsys.Count(audittest.OpCreate)
		waiting, release := fsys.Hold(audittest.OpSync)
		defer release()
		first := later(l, audit.Control, 1)
		<-waiting
		second := later(l, audit.Control, 2) // written, and waits for an fsync of its own
		synctest.Wait()
		fill(t, l, dir)
		change := later(l, audit.Data, 3)
		synctest.Wait()
		if len(waiting) != 0 || fsys.Count(audittest.OpCreate) != creates {
			t.Error("the segment is being changed while an fsync of it runs")
		}
		release()
		for _, done := range []<-chan error{first, second, change} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if fsys.Count(audittest.OpCreate) != creates+1 {
			t.Error("the segment was not changed, so this test shows nothing")
		}
		if got := fsys.Count(audittest.OpSync) - syncs; got != 2 {
			t.Errorf("%d fsyncs, want the one that ran and the one of the change", got)
		}
		closeLog(t, l)
	})
}

// A full disk and an fsync that fails at the same time: after the fsync nothing
// is written, not even why.
func TestNoLastWordsAfterAFailedFsync(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fsys := audittest.NewFS(audit.OS{})
		l := bubbled(t, dir, fsys, nil)
		waiting, release := fsys.Hold(audittest.OpSync)
		defer release()
		control := later(l, audit.Control, 1)
		<-waiting
		fsys.Fail(audittest.OpWrite, audittest.Fault{Err: syscall.ENOSPC})
		fsys.Fail(audittest.OpSync, audittest.Fault{Err: syscall.EIO})
		writes := fsys.Count(audittest.OpWrite) + 1
		data := later(l, audit.Data, 2)
		synctest.Wait()
		release()
		for _, done := range []<-chan error{control, data} {
			if err := <-done; !errs.Is(err, errs.AuditUnavailable) || !strings.Contains(err.Error(), "fsync") {
				t.Errorf("got %v, want the failed fsync", err)
			}
		}
		if err := l.Close(); err == nil {
			t.Error("close succeeded")
		}
		if fsys.Count(audittest.OpWrite) != writes || fsys.Count(audittest.OpTruncate) != 0 || fsys.Count(audittest.OpRemove) != 0 {
			t.Error("something was written after the fsync failed")
		}
	})
}
