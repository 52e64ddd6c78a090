package audit_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// I4, fail closed: whatever fails, the append fails, and so does everything
// after it, until the log is opened again; then nothing acknowledged is lost.
func TestI4_AnyFaultStopsTheLogUntilItIsOpenedAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		op    audittest.Op
		fault audittest.Fault
		class audit.Class
	}{
		"write EIO, data":        {audittest.OpWrite, audittest.Fault{Err: syscall.EIO}, audit.Data},
		"write EIO, control":     {audittest.OpWrite, audittest.Fault{Err: syscall.EIO}, audit.Control},
		"half a line and EIO":    {audittest.OpWrite, audittest.Fault{Err: syscall.EIO, Short: 100}, audit.Data},
		"short write, no error":  {audittest.OpWrite, audittest.Fault{Short: 100}, audit.Data},
		"nothing, no error":      {audittest.OpWrite, audittest.Fault{}, audit.Control},
		"fsync EIO":              {audittest.OpSync, audittest.Fault{Err: syscall.EIO}, audit.Control},
		"fsync ENOSPC":           {audittest.OpSync, audittest.Fault{Err: syscall.ENOSPC}, audit.Control},
		"disk full":              {audittest.OpWrite, audittest.Fault{Err: syscall.ENOSPC}, audit.Data},
		"disk full, half a line": {audittest.OpWrite, audittest.Fault{Err: syscall.ENOSPC, Short: 100}, audit.Control},
		"quota":                  {audittest.OpWrite, audittest.Fault{Err: syscall.EDQUOT}, audit.Data},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fsys := audittest.NewFS(audit.OS{})
			l := open(t, dir, fsys)
			appendN(t, l, audit.Data, 10)
			fsys.Fail(tc.op, tc.fault)
			if err := l.Append(audittest.Record(tc.class, 99)); !errs.Is(err, errs.AuditUnavailable) {
				t.Fatalf("append: %v, want AUDIT_UNAVAILABLE", err)
			}
			fsys.Heal()
			for i := range 3 {
				if err := l.Append(audittest.Record(audit.Class(1+i%2), 100)); !errs.Is(err, errs.AuditUnavailable) {
					t.Errorf("append after the fault was mended: %v, want AUDIT_UNAVAILABLE", err)
				}
			}
			err := l.Err()
			if id := "cluster/audit-fails"; !strings.Contains(fmt.Sprint(err), "is full") {
				situationtest.Error(t, id, err)
			}
			if !errs.Is(err, errs.AuditUnavailable) {
				t.Errorf("Err: %v", err)
			}
			if err := l.Close(); !errs.Is(err, errs.AuditUnavailable) {
				t.Errorf("Close: %v, want the failure", err)
			}
			again := open(t, dir, nil)
			appendN(t, again, audit.Control, 1)
			closeLog(t, again)
			got, _ := records(t, dir)
			refused := 0
			for _, r := range got {
				if strings.HasSuffix(r.Object, "-100") {
					t.Error("a record that was refused before it was written is in the log")
				}
				if strings.HasSuffix(r.Object, "-99") {
					refused++ // written, and then not made durable: it may stand
				}
			}
			if len(got)-refused != 11 {
				t.Errorf("%d acknowledged records are in the log, want 11", len(got)-refused)
			}
		})
	}
}

func TestDiskFullIsNamedAndRecorded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fsys := audittest.NewFS(audit.OS{})
	l := open(t, dir, fsys)
	appendN(t, l, audit.Data, 3)
	reserve := filepath.Join(dir, "reserve")
	if info, err := os.Stat(reserve); err != nil || info.Size() != audit.MinReserveBytes {
		t.Fatalf("reserve: %v, %v", info, err)
	}
	fsys.Fail(audittest.OpWrite, audittest.Fault{Err: syscall.ENOSPC, Short: 77})
	err := l.Append(audittest.Record(audit.Data, 4))
	situationtest.Error(t, "cluster/audit-disk-full", err)
	if !errs.Is(err, errs.AuditUnavailable) || !strings.Contains(err.Error(), "full") || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %q does not say which disk is full", err)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Error("the cause is lost")
	}
	if _, err := os.Stat(reserve); !os.IsNotExist(err) {
		t.Errorf("the reserve was not freed: %v", err)
	}
	_, own := records(t, dir)
	if len(own) != 2 || own[1] != audit.ActFailed {
		t.Errorf("own records %v, want the last to be %s", own, audit.ActFailed)
	}
	// As long as there is no room for a new reserve, the log does not open.
	fsys.Fail(audittest.OpReserve, audittest.Fault{Err: syscall.ENOSPC})
	if _, err := audit.Open(config(dir, fsys)); !errs.Is(err, errs.AuditUnavailable) || !strings.Contains(err.Error(), "full") {
		t.Errorf("open on a full disk: %v", err)
	}
	fsys.Heal()
	again := open(t, dir, fsys)
	closeLog(t, again)
	sum, err := audit.Verify(dir)
	if err != nil || sum.Records != 6 {
		t.Errorf("after all: %+v, %v", sum, err)
	}
}

func TestFaultsWhileASegmentIsChanged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		op  audittest.Op
		err error
	}{
		"create EIO":    {audittest.OpCreate, syscall.EIO},
		"create ENOSPC": {audittest.OpCreate, syscall.ENOSPC},
		"sync dir":      {audittest.OpSyncDir, syscall.EIO},
		"fsync of old":  {audittest.OpSync, syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fsys := audittest.NewFS(audit.OS{})
			l := open(t, dir, fsys)
			fsys.Fail(tc.op, audittest.Fault{Err: tc.err})
			n := 0
			for ; n < 1000; n++ {
				if err := l.Append(audittest.Record(audit.Data, n)); err != nil {
					if !errs.Is(err, errs.AuditUnavailable) {
						t.Errorf("append: %v", err)
					}
					break
				}
			}
			if n == 1000 {
				t.Fatal("the segment never changed")
			}
			if err := l.Close(); !errs.Is(err, errs.AuditUnavailable) {
				t.Errorf("close: %v", err)
			}
			fsys.Heal()
			again := open(t, dir, fsys)
			appendN(t, again, audit.Data, 200)
			closeLog(t, again)
			if got, _ := records(t, dir); len(got) != n+200 {
				t.Errorf("%d records, want %d", len(got), n+200)
			}
		})
	}
}

func TestOpenFailsOnAnyFault(t *testing.T) {
	t.Parallel()
	for _, op := range []audittest.Op{audittest.OpWrite, audittest.OpSync, audittest.OpCreate, audittest.OpReserve, audittest.OpSyncDir} {
		fsys := audittest.NewFS(audit.OS{})
		fsys.Fail(op, audittest.Fault{Err: syscall.EIO})
		if _, err := audit.Open(config(t.TempDir(), fsys)); !errs.Is(err, errs.AuditUnavailable) {
			t.Errorf("fault %d: %v, want AUDIT_UNAVAILABLE", op, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "00000000000000000001.jsonl"), []byte(`{"seq":1,"prev":"00`), 0o600); err != nil {
		t.Fatal(err)
	}
	fsys := audittest.NewFS(audit.OS{})
	fsys.Fail(audittest.OpTruncate, audittest.Fault{Err: syscall.EIO})
	if _, err := audit.Open(config(dir, fsys)); !errs.Is(err, errs.AuditUnavailable) {
		t.Errorf("truncate: %v", err)
	}
}

// I1: Append of a control record returns only after an fsync that began after
// its write; that of a data record does not wait for any.
func TestI1_ControlWaitsForTheDiskAndDataDoesNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fsys := audittest.NewFS(audit.OS{})
	l := open(t, dir, fsys)
	waiting, release := fsys.Hold(audittest.OpSync)
	defer release()

	done := make(chan error, 1)
	go func() { done <- l.Append(audittest.Record(audit.Control, 1)) }()
	<-waiting // the fsync has begun and does not end
	appendN(t, l, audit.Data, 20)
	select {
	case err := <-done:
		t.Fatalf("a control record was acknowledged before its fsync ended: %v", err)
	default:
	}
	if got, _ := records(t, dir); len(got) != 21 {
		t.Errorf("%d records are with the operating system, want 21", len(got))
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
}

// One fsync serves all control records that were written before it began.
func TestControlRecordsShareAnFsync(t *testing.T) {
	t.Parallel()
	fsys := audittest.NewFS(audit.OS{})
	// A large segment: changing it waits for the fsync that this test holds.
	cfg := config(t.TempDir(), fsys)
	cfg.SegmentBytes = audit.DefaultSegmentBytes
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	before := fsys.Count(audittest.OpSync)
	waiting, release := fsys.Hold(audittest.OpSync)
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Append(audittest.Record(audit.Control, 0)); err != nil {
			t.Error(err)
		}
	})
	<-waiting
	const more = 40
	for i := range more {
		wg.Go(func() {
			if err := l.Append(audittest.Record(audit.Control, i)); err != nil {
				t.Error(err)
			}
		})
	}
	// Writing does not wait for the fsync that is held, so all come to be written.
	for written := 0; written < more+1; runtime.Gosched() {
		written = 0
		got, _ := records(t, cfg.Dir)
		for _, r := range got {
			if r.Class == audit.Control {
				written++
			}
		}
	}
	release()
	wg.Wait()
	if n := fsys.Count(audittest.OpSync) - before; n > 2 {
		t.Errorf("%d fsyncs for %d control records", n, more+1)
	}
	closeLog(t, l)
}

// A failed fsync must not be followed by another one: the kernel may have
// dropped the pages and report success.
func TestI4_FailedFsyncIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	fsys := audittest.NewFS(audit.OS{})
	l := open(t, t.TempDir(), fsys)
	fsys.Fail(audittest.OpSync, audittest.Fault{Err: syscall.EIO})
	if err := l.Append(audittest.Record(audit.Control, 0)); err == nil {
		t.Fatal("append succeeded")
	}
	n, w := fsys.Count(audittest.OpSync), fsys.Count(audittest.OpWrite)
	fsys.Heal()
	for range 3 {
		if err := l.Append(audittest.Record(audit.Control, 0)); err == nil {
			t.Error("append succeeded")
		}
	}
	if err := l.Close(); err == nil {
		t.Error("close succeeded")
	}
	if fsys.Count(audittest.OpSync) != n || fsys.Count(audittest.OpWrite) != w {
		t.Error("the log went on writing after a failed fsync")
	}
}

// Every caller of a batch that failed is told.
func TestI4_ConcurrentCallersAllSeeTheFailure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fsys := audittest.NewFS(audit.OS{})
	l := open(t, dir, fsys)
	fsys.Fail(audittest.OpWrite, audittest.Fault{Err: syscall.EIO, Skip: 20})
	var mu sync.Mutex
	acked := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			r := audittest.Record(audit.Class(1+i%2), i)
			err := l.Append(r)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				acked[r.Object] = true
			case !errs.Is(err, errs.AuditUnavailable):
				t.Errorf("append: %v", err)
			}
		})
	}
	wg.Wait()
	_ = l.Close()
	got, _ := records(t, dir)
	for _, r := range got {
		delete(acked, r.Object)
	}
	if len(acked) != 0 {
		t.Errorf("%d acknowledged records are not in the log", len(acked))
	}
}
