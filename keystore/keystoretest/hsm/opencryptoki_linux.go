package hsm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// inside puts memory in place of openCryptoki's fixed places, starts its daemon
// there, says so, and keeps the namespace until its input ends.
const inside = `set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/lock/opencryptoki/swtok /run/copy
[ -L /var/run ] || mount --bind /run /var/run
[ -L /var/lock ] || mount --bind /run/lock /var/lock
cp -a /var/lib/opencryptoki/. /run/copy
mount -t tmpfs tmpfs /var/lib/opencryptoki
cp -a /run/copy/. /var/lib/opencryptoki/
chgrp pkcs11 /var/lib/opencryptoki
chmod 770 /var/lib/opencryptoki
mount -t tmpfs tmpfs /dev/shm
chown -R root:pkcs11 /run/lock/opencryptoki
chmod -R 770 /run/lock/opencryptoki
pkcsslotd </dev/null >/dev/null 2>&1
while [ ! -S /run/pkcsslotd.socket ]; do sleep 0.02; done
echo ready
read -r _ || true
kill "$(cat /run/pkcsslotd.pid)"
`

// startOpenCryptoki needs root: for the namespaces, and for the group whose
// members may use the token.
func (s *Server) startOpenCryptoki(context.Context) error {
	for _, program := range []string{"pkcsslotd", "unshare", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("openCryptoki's token needs root, for a mount namespace")
	}
	matches, err := filepath.Glob("/usr/lib*/*/opencryptoki/libopencryptoki.so.0")
	if err != nil || len(matches) == 0 {
		return fmt.Errorf("libopencryptoki.so.0 is not at its usual places: %w", os.ErrNotExist)
	}
	s.Module = matches[0]
	cmd := exec.Command("unshare", "--mount", "--ipc", "--propagation", "private", "bash", "-c", inside)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.stop = func() error {
		err := in.Close()
		_, _ = io.Copy(io.Discard, out) // until the namespace's last process has ended
		return errors.Join(err, cmd.Wait())
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return errors.Join(fmt.Errorf("openCryptoki's daemon did not start: %q, %w", line, err), s.stop())
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	s.prefix = []string{"nsenter", "--mount", "--ipc", "--target", pid, "--"}
	// The helper has to run there too.
	helper := filepath.Join(s.opts.Dir, "krypton-pkcs11")
	script := "#!/bin/sh\nexec /usr/bin/nsenter --mount --ipc --target " + pid + " -- " + s.Helper + "\n"
	s.Helper = helper
	s.env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return os.WriteFile(helper, []byte(script), 0o700)
}
