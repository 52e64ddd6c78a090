package audit_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// bubbled opens a log whose time is the bubble's.
func bubbled(t testing.TB, dir string, fsys audit.FS, change func(*audit.Config)) *audit.Log {
	t.Helper()
	cfg := config(dir, fsys)
	cfg.Clock, cfg.SegmentBytes = clock.System{}, audit.DefaultSegmentBytes
	if change != nil {
		change(&cfg)
	}
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func namesAHungDisk(t testing.TB, dir string, err error) {
	t.Helper()
	situationtest.Error(t, "cluster/audit-disk-hangs", err)
	if !errs.Is(err, errs.AuditUnavailable) || !strings.Contains(err.Error(), "hangs") || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want AUDIT_UNAVAILABLE that names a hung disk under %s", err, dir)
	}
}

// fill appends data records until the next one needs a new segment. It needs the
// smallest segments.
func fill(t testing.TB, l *audit.Log, dir string) {
	t.Helper()
	for {
		info, err := os.Stat(segments(t, dir)[0])
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > audit.MinSegmentBytes-500 { // a record has some 600 bytes
			return
		}
		appendN(t, l, audit.Data, 1)
	}
}

// The finding itself: the disk takes a call and never answers. Everybody who
// waits is told within the deadline and a tenth, everybody after that at once,
// Err says so, Close does not wait; and when the disk does answer, that changes
// nothing, neither in the log nor on the disk.
func TestI7_AHungDiskFailsTheLog(t *testing.T) {
	t.Parallel()
	small := func(c *audit.Config) { c.SegmentBytes = audit.MinSegmentBytes }
	for name, tc := range map[string]struct {
		op     audittest.Op
		class  audit.Class
		change func(*audit.Config)
		fault  *audittest.Fault // of writes
		late   int              // calls of that kind that the disk still does when it answers
	}{
		"write, data":                           {op: audittest.OpWrite, class: audit.Data, late: 1},
		"write, control":                        {op: audittest.OpWrite, class: audit.Control, late: 1},
		"fsync":                                 {op: audittest.OpSync, class: audit.Control, late: 1},
		"another deadline":                      {op: audittest.OpSync, class: audit.Control, late: 1, change: func(c *audit.Config) { c.Deadline = 40 * time.Second }},
		"fsync of the old segment":              {op: audittest.OpSync, class: audit.Data, change: small, late: 1},
		"creating the new segment":              {op: audittest.OpCreate, class: audit.Data, change: small, late: 1},
		"fsync of the directory":                {op: audittest.OpSyncDir, class: audit.Data, change: small, late: 1},
		"closing the old segment":               {op: audittest.OpClose, class: audit.Data, change: small, late: 2}, // and the new one
		"cutting off what a full disk tore":     {op: audittest.OpTruncate, class: audit.Data, fault: &audittest.Fault{Err: syscall.ENOSPC}, late: 1},
		"freeing the reserve of a full disk":    {op: audittest.OpRemove, class: audit.Data, fault: &audittest.Fault{Err: syscall.ENOSPC}, late: 1},
		"fsync of the last words, disk is full": {op: audittest.OpSync, class: audit.Data, fault: &audittest.Fault{Err: syscall.ENOSPC}, late: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				fsys := audittest.NewFS(audit.OS{})
				var deadline time.Duration
				l := bubbled(t, dir, fsys, func(c *audit.Config) {
					if tc.change != nil {
						tc.change(c)
					}
					deadline = max(c.Deadline, audit.DefaultDeadline)
				})
				appendN(t, l, audit.Control, 3)
				if strings.Contains(name, "segment") || strings.Contains(name, "directory") {
					fill(t, l, dir)
				}
				if tc.fault != nil {
					fsys.Fail(audittest.OpWrite, *tc.fault)
				}
				waiting, release := fsys.Hold(tc.op)
				defer release()

				began := time.Now()
				const callers = 50
				told := make(chan error, callers)
				var wg sync.WaitGroup
				for i := range callers {
					wg.Go(func() { told <- l.Append(audittest.Record(tc.class, 1000+i)) })
				}
				<-waiting
				wg.Wait()
				if took := time.Since(began); took < deadline || took > deadline+deadline/10 {
					t.Errorf("the callers waited for %v, the deadline is %v", took, deadline)
				}
				close(told)
				refused := 0
				for err := range told {
					if err == nil {
						continue
					}
					refused++
					namesAHungDisk(t, dir, err)
				}
				if refused == 0 {
					t.Error("nobody was told")
				}

				seq, head := l.Head()
				stands := func(when string) {
					t.Helper()
					at := time.Now()
					namesAHungDisk(t, dir, l.Err())
					for _, class := range []audit.Class{audit.Data, audit.Control} {
						namesAHungDisk(t, dir, l.Append(audittest.Record(class, 2000)))
					}
					if s, h := l.Head(); s != seq || h != head {
						t.Errorf("%s the head is %d, it was %d", when, s, seq)
					}
					if took := time.Since(at); took != 0 {
						t.Errorf("%s calls waited for %v", when, took)
					}
				}
				stands("while it hangs,")
				at := time.Now()
				namesAHungDisk(t, dir, l.Close())
				if took := time.Since(at); took != 0 {
					t.Errorf("Close waited for %v", took)
				}

				counts := map[audittest.Op]int{}
				all := []audittest.Op{audittest.OpWrite, audittest.OpSync, audittest.OpCreate, audittest.OpTruncate, audittest.OpSyncDir, audittest.OpRemove, audittest.OpClose}
				for _, op := range all {
					counts[op] = fsys.Count(op)
				}
				release()
				synctest.Wait()
				stands("after the disk answered,")
				for _, op := range all {
					want := 0
					switch op {
					case tc.op:
						want = tc.late
					case audittest.OpClose:
						want = 1 // the segment
						if tc.op == audittest.OpSyncDir || tc.op == audittest.OpCreate {
							want = 2 // and the one that was just made
						}
					}
					if got := fsys.Count(op) - counts[op]; got != want {
						t.Errorf("operation %d happened %d times after the disk answered, want %d", op, got, want)
					}
				}
				namesAHungDisk(t, dir, l.Close())
			})
			again := open(t, dir, nil)
			appendN(t, again, audit.Control, 1)
			closeLog(t, again)
		})
	}
}

// What was acknowledged before the disk hung is in the log; of the rest, what the
// disk wrote late may stand, since nobody was told that it does not.
func TestI7_NothingAcknowledgedIsLostByAHang(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fsys := audittest.NewFS(audit.OS{})
		l := bubbled(t, dir, fsys, nil)
		appendN(t, l, audit.Control, 5)
		_, release := fsys.Hold(audittest.OpSync)
		appendN(t, l, audit.Data, 7)
		namesAHungDisk(t, dir, l.Append(audittest.Record(audit.Control, 99)))
		namesAHungDisk(t, dir, l.Append(audittest.Record(audit.Data, 100)))
		_ = l.Close()
		release()
	})
	again := open(t, dir, nil)
	closeLog(t, again)
	got, _ := records(t, dir)
	if len(got) != 13 || !strings.HasSuffix(got[12].Object, "-99") {
		t.Errorf("%d records are in the log", len(got))
	}
}

// The deadline is of one call: a disk that is slow and answers is not hung,
// however often, and a slow change of segments is five calls.
func TestI7_ASlowDiskIsNotAHungOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fsys := audittest.NewFS(audit.OS{})
		l := bubbled(t, dir, fsys, func(c *audit.Config) { c.SegmentBytes = audit.MinSegmentBytes })
		appending := func(class audit.Class) <-chan error {
			done := make(chan error, 1)
			go func() { done <- l.Append(audittest.Record(class, 1)) }()
			return done
		}
		for range 3 {
			// Held before the record comes, so that no write slips through.
			w, release := fsys.Hold(audittest.OpWrite)
			s, releaseSync := fsys.Hold(audittest.OpSync)
			done := appending(audit.Control)
			<-w
			time.Sleep(audit.DefaultDeadline - time.Millisecond)
			release()
			<-s
			time.Sleep(audit.DefaultDeadline - time.Millisecond)
			releaseSync()
			if err := <-done; err != nil {
				t.Fatalf("a slow disk: %v", err)
			}
		}
		fill(t, l, dir)
		ops := []audittest.Op{audittest.OpSync, audittest.OpCreate, audittest.OpSyncDir, audittest.OpClose, audittest.OpWrite}
		var waits []<-chan struct{}
		var releases []func()
		for _, op := range ops {
			w, r := fsys.Hold(op)
			waits, releases = append(waits, w), append(releases, r)
		}
		done := appending(audit.Data)
		for i := range ops {
			<-waits[i]
			time.Sleep(audit.DefaultDeadline - time.Millisecond)
			releases[i]()
		}
		if err := <-done; err != nil {
			t.Fatalf("a slow change of segments: %v", err)
		}
		if len(segments(t, dir)) != 2 {
			t.Error("the segment did not change, so this test shows nothing")
		}
		if err := l.Err(); err != nil {
			t.Error(err)
		}
		closeLog(t, l)
	})
}

// A process that was stopped for an hour in the middle of a write has a healthy
// disk: the clock jumped, the disk was not asked.
func TestI7_APauseOfTheProcessIsNoHang(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fsys, clk := audittest.NewFS(audit.OS{}), clock.NewFake(start)
		l := bubbled(t, dir, fsys, func(c *audit.Config) { c.Clock = clk })
		waiting, release := fsys.Hold(audittest.OpWrite)
		defer release()
		done := make(chan error, 1)
		go func() { done <- l.Append(audittest.Record(audit.Data, 1)) }()
		<-waiting
		synctest.Wait() // the watcher sleeps
		clk.Advance(time.Hour)
		synctest.Wait()
		if err := l.Err(); err != nil {
			t.Fatalf("after a pause: %v", err)
		}
		release()
		if err := <-done; err != nil {
			t.Fatalf("after a pause: %v", err)
		}
		// And after it the watch goes on.
		waiting, release = fsys.Hold(audittest.OpWrite)
		defer release()
		go func() { done <- l.Append(audittest.Record(audit.Data, 2)) }()
		<-waiting
		for range 12 {
			synctest.Wait()
			clk.Advance(audit.DefaultDeadline / 10)
		}
		namesAHungDisk(t, dir, <-done)
		release()
		_ = l.Close()
	})
}

// Callers do not pile up while the disk is slow: new operations are refused at
// the door, and those inside still get their records.
func TestI8_WhoWaitsIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fsys := audittest.NewFS(audit.OS{})
		const most = 20
		l := bubbled(t, dir, fsys, func(c *audit.Config) { c.MaxWaiting = most })
		waiting, release := fsys.Hold(audittest.OpWrite)
		defer release()
		var wg sync.WaitGroup
		begin := func(i int) {
			wg.Go(func() {
				if err := l.Append(audittest.Record(audit.Data, i)); err != nil {
					t.Errorf("an operation that had begun: %v", err)
				}
			})
			synctest.Wait()
		}
		for i := range most {
			if err := l.Err(); err != nil {
				t.Fatalf("%d callers wait: %v", i, err)
			}
			begin(i)
		}
		<-waiting
		situationtest.Error(t, "cluster/audit-behind", l.Err())
		if err := l.Err(); !errs.Is(err, errs.AuditUnavailable) || !strings.Contains(err.Error(), "wait") || !strings.Contains(err.Error(), dir) {
			t.Errorf("%d callers wait, and Err is %v", most, err)
		}
		begin(most) // was let in before
		release()
		wg.Wait()
		if err := l.Err(); err != nil {
			t.Errorf("nobody waits any more, and Err is %v", err)
		}
		closeLog(t, l)
	})
	if got, _ := records(t, dir); len(got) != 21 {
		t.Errorf("%d records, want 21", len(got))
	}
}

func TestOpenAndCloseDoNotWaitForAHungDisk(t *testing.T) {
	t.Parallel()
	for _, op := range []audittest.Op{audittest.OpWrite, audittest.OpSync} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			fsys := audittest.NewFS(audit.OS{})
			_, release := fsys.Hold(op)
			defer release()
			cfg := config(dir, fsys)
			cfg.Clock = clock.System{}
			_, err := audit.Open(cfg)
			namesAHungDisk(t, dir, err)
		})
	}
	for _, op := range []audittest.Op{audittest.OpSync, audittest.OpClose} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			fsys := audittest.NewFS(audit.OS{})
			l := bubbled(t, dir, fsys, nil)
			appendN(t, l, audit.Data, 1)
			_, release := fsys.Hold(op)
			defer release()
			began := time.Now()
			namesAHungDisk(t, dir, l.Close())
			if took := time.Since(began); took > 11*time.Second {
				t.Errorf("Close waited for %v", took)
			}
		})
	}
}

func TestLimitsOfWaitingAreChecked(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*audit.Config){
		"deadline too short": func(c *audit.Config) { c.Deadline = audit.MinDeadline - 1 },
		"negative deadline":  func(c *audit.Config) { c.Deadline = -time.Second },
		"nobody may wait":    func(c *audit.Config) { c.MaxWaiting = -1 },
	} {
		cfg := config(filepath.Join(t.TempDir(), "audit"), nil)
		change(&cfg)
		if _, err := audit.Open(cfg); !errs.Is(err, errs.InvalidConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
