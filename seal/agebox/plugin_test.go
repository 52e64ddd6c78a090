package agebox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/agebox/ageboxtest"
)

func pluginKey(t *testing.T, b ageboxtest.Behaviour) (recipient, identity string) {
	t.Helper()
	recipient, identity, err := ageboxtest.New(b)
	if err != nil {
		t.Fatal(err)
	}
	return recipient, identity
}

func TestAPluginEncryptsAndOpens(t *testing.T) {
	withPlugin(t)
	recipient, identity := pluginKey(t, ageboxtest.Quiet)
	r, err := agebox.ParseRecipient(recipient)
	if err != nil || r.Kind() != agebox.KindPlugin || r.Plugin() != ageboxtest.Name {
		t.Fatalf("the recipient is %s of %q, %v", r.Kind(), r.Plugin(), err)
	}
	ids := read(t, identity, agebox.Person{})
	if err := opens(t, ids, encrypt(t, recipient)); err != nil {
		t.Error(err)
	}
	public, err := ids.Public()
	if diff := cmp.Diff([]agebox.Public{{Kind: agebox.KindPlugin, Plugin: ageboxtest.Name}}, public); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	other, _ := pluginKey(t, ageboxtest.Quiet)
	if err := opens(t, ids, encrypt(t, other)); !errors.Is(err, agebox.ErrOtherIdentity) {
		t.Errorf("what is encrypted to another token gave %v", err)
	}
}

func TestAPluginReachesThePerson(t *testing.T) {
	withPlugin(t)
	recipient, identity := pluginKey(t, ageboxtest.Asks)
	file := encrypt(t, recipient)
	var heard []string
	person := func(pin string) agebox.Person {
		return agebox.Person{
			Tell: func(plugin, message string) { heard = append(heard, plugin+": "+message) },
			Ask: func(plugin, question string, secret bool) (string, error) {
				if !secret {
					t.Error("a PIN is no secret")
				}
				heard = append(heard, plugin+"? "+question)
				return pin, nil
			},
			Confirm: func(plugin, question, yes, no string) (bool, error) {
				heard = append(heard, plugin+"? "+question+" "+yes+"/"+no)
				return true, nil
			},
		}
	}
	if err := opens(t, read(t, identity, person(ageboxtest.PIN)), file); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"test: touch the token", "test? PIN of the token", "test? use the key? yes/no"}, heard); diff != "" {
		t.Error(diff)
	}
	if err := opens(t, read(t, identity, person("wrong")), file); !errors.Is(err, agebox.ErrPlugin) || !strings.Contains(err.Error(), "the PIN is wrong") {
		t.Errorf("a wrong PIN gave %v", err)
	}
	// Nobody can be asked: the plugin hears that, and the file stays closed.
	if err := opens(t, read(t, identity, agebox.Person{}), file); !errors.Is(err, agebox.ErrPlugin) {
		t.Errorf("without a person: %v", err)
	}
}

func TestAPluginThatRefusesIsNamed(t *testing.T) {
	withPlugin(t)
	recipient, identity := pluginKey(t, ageboxtest.Refuses)
	quiet, _ := pluginKey(t, ageboxtest.Quiet)
	_, encrypting := agebox.Encrypt(t.Context(), recipient, []byte(share))
	for name, err := range map[string]error{
		"encrypting": encrypting,
		"opening":    opens(t, read(t, identity, agebox.Person{}), encrypt(t, quiet)),
	} {
		if !errors.Is(err, agebox.ErrPlugin) || errs.Of(err) != errs.FailedState || !strings.Contains(err.Error(), "age-plugin-test did not do its part") {
			t.Errorf("%s gave %v", name, err)
		}
		if msg := errs.From(err).Msg; strings.Contains(msg, "\x1b") || !strings.Contains(msg, "the token?[2J is not there") {
			t.Errorf("%s: what it says reaches the terminal as %q", name, msg)
		}
	}
}

func TestAPluginThatIsMissingIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	recipient, identity := pluginKey(t, ageboxtest.Quiet)
	_, encrypting := agebox.Encrypt(t.Context(), recipient, []byte(share))
	x25519 := keys(t)["x25519"]
	for name, err := range map[string]error{
		"encrypting": encrypting,
		"opening":    opens(t, read(t, identity, agebox.Person{}), encrypt(t, x25519.recipient)),
	} {
		if !errors.Is(err, agebox.ErrPlugin) || errs.Of(err) != errs.FailedState || !strings.Contains(err.Error(), "age-plugin-test is not on this machine") {
			t.Errorf("%s gave %v", name, err)
		}
	}
	// An identity of age beside it is tried first, so that no plugin is needed.
	if err := opens(t, read(t, identity+"\n"+x25519.identity, agebox.Person{}), encrypt(t, x25519.recipient)); err != nil {
		t.Error(err)
	}
}

// With this in the environment age writes the key of the file to stderr.
func TestAPluginIsNotUsedWhileAgeDebugsIt(t *testing.T) {
	withPlugin(t)
	recipient, identity := pluginKey(t, ageboxtest.Quiet)
	file := encrypt(t, recipient)
	t.Setenv("AGEDEBUG", "plugin")
	_, encrypting := agebox.Encrypt(t.Context(), recipient, []byte(share))
	for name, err := range map[string]error{"encrypting": encrypting, "opening": opens(t, read(t, identity, agebox.Person{}), file)} {
		if !errors.Is(err, agebox.ErrPlugin) || !strings.Contains(err.Error(), "AGEDEBUG") {
			t.Errorf("%s gave %v", name, err)
		}
	}
}

// TestI6_APluginHasADeadlineOfItsOwn, also where the caller has none.
func TestI6_APluginHasADeadlineOfItsOwn(t *testing.T) {
	if agebox.PluginTime <= 0 || agebox.PluginTime > time.Minute {
		t.Errorf("%s", agebox.PluginTime)
	}
	withPlugin(t)
	recipient, _ := pluginKey(t, ageboxtest.Quiet)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := agebox.Encrypt(ctx, recipient, []byte(share)); !errors.Is(err, agebox.ErrPlugin) || !errors.Is(err, context.Canceled) {
		t.Errorf("for a caller who has left: %v", err)
	}
}
