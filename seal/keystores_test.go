package seal_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/awskms"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/seal"
)

// A KMS over its own wire, a keystore on disk, a person and a paper hold the
// shares of two groups: what the fakes of the other tests could hide is here.
func TestRealKeystoresAndAPersonHoldShares(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // the first use builds a program
	defer cancel()
	program, err := awsserver.Program(ctx)
	keystoretest.Require(t, "local-kms", "scripts/tool localkms", err)
	aws, err := awsserver.Start(ctx, awsserver.Options{Program: program})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := aws.Close(); err != nil {
			t.Error(err)
		}
	})
	arn, err := aws.CreateKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const subject, audience = "system:serviceaccount:krypton:node", "sts.amazonaws.com"
	role, err := aws.AddRole(awsserver.Role{Name: "krypton", WebIdentity: subject, Audience: audience})
	if err != nil {
		t.Fatal(err)
	}
	token, err := aws.WebIdentityToken(subject, audience, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	disk, err := local.Create(ctx, env, "disk", filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.CreateKey(ctx, "krypton-seal"); err != nil {
		t.Fatal(err)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	reg, err := keystore.Open(ctx, env, []keystore.Config{
		{Name: "disk", Type: local.Type, Settings: map[string]string{local.SettingDir: filepath.Join(dir, "disk")}},
		{Name: "aws", Type: awskms.Type, Settings: map[string]string{
			"region": aws.Region(), "endpoint": aws.KMS().URL, "sts_endpoint": aws.STS().URL, "ca_file": aws.CAFile(),
			"auth": "web-identity", "role_arn": role, "token_file": filepath.Join(dir, "token"), "session_name": "node-1",
		}},
	}, keystore.Constructors{local.Type: local.New, awskms.Type: awskms.New})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})

	a := newPerson(t)
	plan := seal.Plan{Groups: []seal.Group{
		{Name: "machines", Threshold: 2, Holders: []seal.Holder{
			{Name: "disk", Key: seal.ProviderKey{Provider: "disk", Key: "krypton-seal"}},
			{Name: "aws", Key: seal.ProviderKey{Provider: "aws", Key: keystore.KeyRef(arn)}},
		}},
		{Name: "people", Threshold: 2, Holders: []seal.Holder{person(a, "anna"), paper("safe")}},
	}}
	k := sealed(t, ceremony(t), plan, reg)
	defer k.done()
	path := filepath.Join(dir, "record.pb")
	if err := seal.WriteFile(path, k.record); err != nil {
		t.Fatal(err)
	}
	if k.record, err = seal.ReadFile(path, k.record.Keyspace()); err != nil {
		t.Fatal(err)
	}
	all := k.every(t, a, reg)
	defer destroy(all)
	mk, err := seal.Combine(k.record, all)
	if err != nil {
		t.Fatal(err)
	}
	defer mk.Destroy()
	if !same(t, mk, k.masterKey) || k.record.PersonsNeeded() != 2 {
		t.Errorf("another MasterKey, or %d persons", k.record.PersonsNeeded())
	}

	// The KMS said no: that share alone is missing, by its name and class.
	aws.Deny(arn, "kms:Decrypt")
	if _, err := seal.OpenShard(ctx, k.record, 2, reg); keystore.ClassOf(err) != keystore.Denied {
		t.Errorf("denied by its policy: %v", err)
	}
	if s, err := seal.OpenShard(ctx, k.record, 1, reg); err != nil {
		t.Errorf("the other keystore: %v", err)
	} else {
		s.Destroy()
	}
}
