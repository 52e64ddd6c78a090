package damage_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// disk is a file system of its own, in a mount namespace of its own: nothing of
// it is left when its process is gone, however the test ends.
type disk struct {
	p      *place
	inside string   // its directory as processes behind enter see it
	path   string   // the same directory for the test
	enter  []string // runs a command in its namespace
	anchor *exec.Cmd
}

// disk mounts a file system with the command mount, in which DIR stands for the
// directory. It needs root.
func (p *place) disk(mount string) *disk {
	p.t.Helper()
	if os.Geteuid() != 0 {
		p.t.Skip("only root can mount a file system")
	}
	d := &disk{p: p, inside: filepath.Join(p.dir, "m")}
	if err := os.MkdirAll(d.inside, 0o700); err != nil {
		p.t.Fatal(err)
	}
	d.anchor = exec.CommandContext(context.Background(), "unshare", "-m", "sh", "-c", strings.ReplaceAll(mount, "DIR", d.inside)+" && echo mounted && exec sleep 300")
	d.anchor.Stderr = p.t.Output()
	out, err := d.anchor.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := d.anchor.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(d.unmount)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		p.t.Fatalf("mount: %q, %v", line, err)
	}
	pid := fmt.Sprint(d.anchor.Process.Pid)
	d.enter = []string{"nsenter", "-t", pid, "-m"}
	d.path = filepath.Join("/proc", pid, "root", d.inside)
	return d
}

func (d *disk) unmount() {
	_ = d.anchor.Process.Kill() // it may be gone
	_ = d.anchor.Wait()
}

// do runs a command in the namespace.
func (d *disk) do(args ...string) {
	d.p.t.Helper()
	args = append(append([]string(nil), d.enter...), args...)
	if out, err := exec.CommandContext(d.p.t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		d.p.t.Fatalf("%s: %v: %s", args, err, out)
	}
}

// keepData moves the node's data onto the disk.
func (d *disk) keepData() {
	d.do("cp", "-a", d.p.data, filepath.Join(d.inside, "d"))
	d.p.inside, d.p.data = filepath.Join(d.inside, "d"), filepath.Join(d.path, "d")
	d.p.enter = d.enter
	d.do("sync", "-f", d.inside) // cp promises nothing
}

// settled waits until the node wrote down its address, which is new at each start.
func (n *node) settled() {
	n.p.t.Helper()
	n.until("peers.json has its address", func(context.Context) error {
		a, err := cluster.ReadAddresses(n.p.data)
		if err == nil && !strings.Contains(string(n.p.read(n.p.path("tls/peers.json"))), `"`+a.Peer+`"`) {
			err = errors.New("not yet")
		}
		return err
	})
}

// fill leaves no free block, and returns what frees them.
func (d *disk) fill() (free func()) {
	d.p.t.Helper()
	name := filepath.Join(d.path, "fill")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		d.p.t.Fatal(err)
	}
	for size := 1 << 20; size > 0; size /= 2 {
		for b := make([]byte, size); err == nil; {
			_, err = f.Write(b)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			d.p.t.Fatal(err)
		}
		err = nil
	}
	if err := f.Close(); err != nil {
		d.p.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			d.p.t.Fatal(err)
		}
	}
}

const tmpfs = "mount -t tmpfs -o size=6m,mode=700 none DIR"

func TestAStartOnAFullOrReadOnlyDiskSaysSo(t *testing.T) {
	t.Parallel()
	situationtest.Outcome(t, "machine/disk-came-back")
	t.Run("full", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		d := p.disk(tmpfs)
		d.keepData()
		p.configure(p.config())
		missing("run")(p) // what a start removes would make room
		free := d.fill()
		before := p.sum()
		p.refuses("machine/disk-full-at-start")
		if after := p.sum(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("it changed what was there: %v, %v", before, after)
		}
		free()
		p.healthy()
	})
	t.Run("read-only", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		d := p.disk(tmpfs)
		d.keepData()
		p.configure(p.config())
		d.do("mount", "-o", "remount,ro", d.inside)
		p.refuses("machine/disk-read-only")
		d.do("mount", "-o", "remount,rw", d.inside)
		p.healthy()
	})
	t.Run("full under the trail", func(t *testing.T) {
		t.Parallel()
		p := newPlace(t)
		d := p.disk(tmpfs)
		p.enter = d.enter
		p.configure(with(p.config(), "audit", fmt.Sprintf("audit: {dir: %q, reserve_mib: 1}", d.inside)))
		free := d.fill()
		p.refuses("machine/trail-disk-full-at-start")
		free()
		p.healthy()
	})
}

// bounded is the deadline of a call that a node may not answer.
const bounded = 5 * time.Second

// create makes services until one is refused, or not answered within that time, and
// returns the names of those that were acknowledged.
func (n *node) create(c *client.Client, prefix string, limit int, within time.Duration) (done []string, err error) {
	n.p.t.Helper()
	for i := range limit {
		ctx, cancel := context.WithTimeout(n.p.t.Context(), within)
		id := fmt.Sprintf("%s%d", prefix, i)
		_, err = c.Services().CreateService(ctx, &kryptonv1.CreateServiceRequest{Parent: "tenants/demo", ServiceId: id})
		cancel()
		if err != nil {
			return done, err
		}
		done = append(done, id)
	}
	return done, nil
}

// saysWhy returns once the node says why it ends. It may be quick: the process ends with
// its last word, unless a call of it hangs in the kernel.
func (n *node) saysWhy() {
	n.p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !strings.Contains(n.out.String(), "krypton: ") {
		select {
		case <-n.done:
			return // what it said is looked at by who asks how it ended
		default:
		}
		if (clock.System{}).Sleep(ctx, 20*time.Millisecond) != nil {
			n.p.t.Fatalf("it does not say why: %s", n.out)
		}
	}
}

// has reports that every service is there.
func (n *node) has(ids []string) {
	n.p.t.Helper()
	c := n.as("governor")
	for _, id := range ids {
		n.until("service "+id, func(ctx context.Context) error {
			_, err := c.Services().GetService(ctx, &kryptonv1.GetServiceRequest{Name: "tenants/demo/services/" + id})
			return err
		})
	}
}

// TestADiskThatFillsUpEndsTheNodeAndLosesNothing that was acknowledged.
func TestADiskThatFillsUpEndsTheNodeAndLosesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	d := p.disk(tmpfs)
	d.keepData()
	p.configure(with(p.config(), "audit", fmt.Sprintf("audit: {dir: %q, reserve_mib: 1}", filepath.Join(p.dir, "a"))))
	n := p.start()
	n.serves()
	n.settled()
	governor := n.as("governor")
	free := d.fill()
	done, err := n.create(governor, "full", 2000, bounded)
	if err == nil {
		t.Fatal("every act was acknowledged on a full disk")
	}
	status, stderr := n.ends()
	p.told("machine/disk-full", status, stderr)
	free()
	n = p.start()
	n.serves()
	n.opens()
	n.has(done)
	n.stop()
	t.Logf("%d acts were acknowledged before", len(done))
}

// TestATrailWhoseDiskFillsUpStopsTheServiceAndSaysSo: without a record, nothing
// is done. The reserve pays for the trail's last words.
func TestATrailWhoseDiskFillsUpStopsTheServiceAndSaysSo(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	d := p.disk(tmpfs)
	p.enter = d.enter
	p.configure(with(p.config(), "audit", fmt.Sprintf("audit: {dir: %q, reserve_mib: 1}", d.inside)))
	n := p.start()
	n.serves()
	governor := n.as("governor")
	free := d.fill()
	done, err := n.create(governor, "trail", 2000, bounded)
	if err == nil {
		t.Fatal("every act was acknowledged without a record")
	}
	_, err = n.create(governor, "later", 1, bounded)
	situationtest.Error(t, "machine/trail-disk-full", err)
	n.until("it is not ready", func(ctx context.Context) error {
		status, body, err := n.ready(ctx)
		if err == nil && (status != http.StatusServiceUnavailable || !strings.Contains(body, errs.AuditUnavailable.String())) {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	n.signal(syscall.SIGTERM)
	status, stderr := n.ends()
	p.told("machine/trail-disk-full", status, stderr)
	free()
	failed := 0
	sum, err := audit.Read(d.path, func(r audit.Record) error {
		if r.Act == audit.ActFailed {
			failed++
		}
		return nil
	})
	if err != nil || failed != 1 || sum.Torn != 0 {
		t.Errorf("%d records say that the trail failed; %+v, %v", failed, sum, err)
	}
	n = p.start()
	n.serves()
	n.opens()
	n.has(done)
	n.stop()
}

// image makes a small file system in a file, so that its disk can fail.
func (p *place) image() string {
	p.t.Helper()
	file := filepath.Join(p.dir, "image")
	for _, args := range [][]string{{"truncate", "-s", "16M", file}, {"mkfs.ext4", "-q", "-F", "-O", "^resize_inode", file}} {
		if out, err := exec.CommandContext(p.t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			p.t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	return "mount -o loop " + file + " DIR && chmod 0700 DIR"
}

// shutdown is EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: a power cut for
// the file system. Every later call answers with an input/output error.
func (d *disk) shutdown() {
	d.p.t.Helper()
	f, err := os.Open(d.path)
	if err != nil {
		d.p.t.Fatal(err)
	}
	flags := uint32(2)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x8004587d, uintptr(unsafe.Pointer(&flags)))
	_ = f.Close() // the file system is gone
	if errno != 0 {
		d.p.t.Fatal(errno)
	}
}

// TestADiskThatFailsEndsTheNodeAndLosesNothing: the file system is cut off in the
// middle of writes, as by a power cut, and mounted again.
func TestADiskThatFailsEndsTheNodeAndLosesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	data, image := p.data, p.image()
	d := p.disk(image)
	d.keepData()
	p.configure(with(p.config(), "audit", fmt.Sprintf("audit: {dir: %q, reserve_mib: 1}", filepath.Join(p.dir, "a"))))
	n := p.start()
	n.serves()
	governor := n.as("governor")
	done, err := n.create(governor, "before", 10, patience)
	if err != nil {
		t.Fatal(err)
	}
	d.shutdown()
	if more, err := n.create(governor, "after", 100, bounded); err == nil {
		t.Fatal("every act was acknowledged without a disk")
	} else if len(more) > 0 {
		t.Errorf("%d acts were acknowledged without a disk", len(more))
	}
	status, stderr := n.ends()
	p.told("machine/disk-fails", status, stderr)
	d.unmount()
	p.data = data
	d = p.disk(image)
	p.data, p.inside, p.enter = filepath.Join(d.path, "d"), filepath.Join(d.inside, "d"), d.enter
	n = p.start()
	n.serves()
	n.opens()
	n.has(done)
	n.stop()
}

// hungLog is what the watch of the Raft log says. It waits longer than that of the
// leader, and has the word if what hangs is no step of a leader, or if the node did not
// lead in that moment: a busy machine is not asked which.
const hungLog = "hangs: a call has not returned"

// TestADiskThatHangsEndsALeader: the file system is frozen, so that writes wait
// for ever, which no error tells.
func TestADiskThatHangsEndsALeader(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	d := p.disk(p.image())
	d.keepData()
	p.configure(with(p.config(), "audit", fmt.Sprintf("audit: {dir: %q, reserve_mib: 1}", filepath.Join(p.dir, "a"))))
	n := p.start()
	n.serves()
	governor := n.as("governor")
	done, err := n.create(governor, "before", 3, patience)
	if err != nil {
		t.Fatal(err)
	}
	d.do("fsfreeze", "-f", d.inside)
	thaw := func() {
		_ = exec.CommandContext(context.Background(), d.enter[0], append(d.enter[1:], "fsfreeze", "-u", d.inside)...).Run()
	}
	t.Cleanup(thaw) // before the place is removed
	if more, err := n.create(governor, "after", 1, bounded); err == nil {
		t.Errorf("%d acts were acknowledged without a disk", len(more))
	}
	n.saysWhy()
	thaw() // the kernel ends a process only when its calls have returned
	status, stderr := n.ends()
	if strings.Contains(stderr, hungLog) {
		if want := errs.Unavailable.Row().Exit; status != want || !strings.Contains(stderr, "look at the disk, the volume and the hypervisor under it") {
			t.Errorf("status %d, want %d: %s", status, want, stderr)
		}
	} else {
		p.told("machine/disk-hangs", status, stderr)
	}
	n = p.start()
	n.serves()
	n.opens()
	n.has(done)
	n.stop()
}
