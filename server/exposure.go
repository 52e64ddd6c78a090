package server

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/node"
)

// What is done after an exposed MasterKey was replaced, step by step. Package fsm says
// what is left; here stands who has to do something about it.

// Names of the steps, as the API and the metrics have them.
const (
	stepMasterKey    = "master-key"
	stepTenants      = "tenants"
	stepSecrets      = "secrets"
	stepInternalKeys = "internal-keys"
	stepMembers      = "members"
	stepCarriedKeys  = "carried-keys"
	stepAuthorities  = "authorities"
	stepProviderKeys = "provider-keys"
	stepBackups      = "backups"
)

// exposureToAPI shows what became of the exposure for which a ceremony was held; nil: there
// was none, or there was another one since.
func (c *calls) exposureToAPI(v *fsm.View, ceremony []byte) *kryptonv1.Exposure {
	x, ok := v.Exposure()
	if !ok || !bytes.Equal(x.Exposure.GetCeremonyId(), ceremony) {
		return nil
	}
	out := &kryptonv1.Exposure{BeginTime: stamp(x.Exposure.GetBeginTimeMs()), DoneTime: stamp(x.Exposure.GetDoneTimeMs()), Steps: exposureSteps(v, x, c.node.Uncleared())}
	for _, k := range x.Exposure.GetProviderKeys() {
		out.ProviderKeys = append(out.ProviderKeys, &kryptonv1.ExposedKey{Holder: k.GetHolder(), Keystore: k.GetProvider(), Key: k.GetKey(), KeyVersion: k.GetKeyVersion()})
	}
	for _, b := range x.Exposure.GetBackups() {
		out.Backups = append(out.Backups, backupToAPI(b))
	}
	return out
}

func backupToAPI(b *fsmpb.Backup) *kryptonv1.Backup {
	return &kryptonv1.Backup{Time: stamp(b.GetTimeMs()), Index: b.GetIndex(), Generation: b.GetGeneration(), NodeId: b.GetNode(), By: principalName(b.GetBy())}
}

// exposureSteps are the steps in the order in which they are done. Why a member has not
// cleared its disk only the leader knows.
func exposureSteps(v *fsm.View, x fsm.Exposed, failures map[string]string) []*kryptonv1.ExposureStep {
	const (
		isDone  = kryptonv1.ExposureStepState_EXPOSURE_STEP_STATE_DONE
		running = kryptonv1.ExposureStepState_EXPOSURE_STEP_STATE_RUNNING
		waits   = kryptonv1.ExposureStepState_EXPOSURE_STEP_STATE_WAITS
		forYou  = kryptonv1.ExposureStepState_EXPOSURE_STEP_STATE_FOR_YOU
	)
	steps := []*kryptonv1.ExposureStep{{
		Name: stepMasterKey, State: isDone, Detail: fmt.Sprintf("MasterKey %d is in force, with an internal key and CAs of its own; join tokens of before are gone", x.Exposure.GetGeneration()),
	}}
	clean := true // nothing of the steps before is left
	step := func(name string, left, total int, detail string, state kryptonv1.ExposureStepState) {
		s := &kryptonv1.ExposureStep{Name: name, State: isDone, Left: count(left), Total: count(total)}
		if left > 0 {
			if s.State, s.Detail = state, detail; !clean {
				s.State, s.Detail = waits, "waits for what stands above"
			}
			clean = false
		}
		steps = append(steps, s)
	}
	step(stepTenants, x.TenantsLeft, x.TenantsTotal, "their keys are wrapped under the new internal key", running)
	step(stepSecrets, x.SecretsLeft, 0, "they are wrapped under the new internal key", running)
	step(stepInternalKeys, x.KeysLeft, 0, "those of before are destroyed", running)

	members := liveMembers(v)
	state, detail := running, "each clears its disk of what the registry was before"
	if why := membersLeft(members, x.MembersLeft, failures); why != "" {
		state, detail = waits, why
	}
	if x.ClearIndex == 0 {
		clean = false
	}
	step(stepMembers, len(x.MembersLeft), len(members), detail, state)
	step(stepCarriedKeys, x.CarriedLeft, 0, "the seal record still has what proves logs of before", running)

	// The CAs of before are trusted until a time that has nothing to do with the rest.
	cas := &kryptonv1.ExposureStep{Name: stepAuthorities, State: isDone, Left: count(len(x.Retiring))}
	if len(x.Retiring) > 0 {
		cas.State, cas.Detail = waits, retiringText(x.Retiring)
	}
	keys := &kryptonv1.ExposureStep{Name: stepProviderKeys, State: isDone, Total: count(len(x.Exposure.GetProviderKeys()))}
	if keys.GetTotal() > 0 {
		keys.State, keys.Detail = forYou, "disable these key versions in their keystores, once no member needs them to start: "+keysText(x.Exposure.GetProviderKeys())
	}
	backups := &kryptonv1.ExposureStep{Name: stepBackups, State: isDone, Total: count(len(x.Exposure.GetBackups()))}
	backups.State, backups.Detail = forYou, "destroy every copy from before"
	if n := len(x.Exposure.GetBackups()); n > 0 {
		backups.Detail += fmt.Sprintf(": the registry knows of %d that nodes gave out", n)
	}
	backups.Detail += "; it knows nothing of files made with save-dir, of copied disks and of snapshots of volumes"
	return append(steps, cas, keys, backups)
}

func liveMembers(v *fsm.View) (all []*fsmpb.Member) {
	for _, m := range v.Members() {
		if !m.GetRemoved() {
			all = append(all, m)
		}
	}
	return all
}

// membersLeft says of members that could not clear their disks which and why.
func membersLeft(members []*fsmpb.Member, left []string, failures map[string]string) string {
	var parts []string
	for _, m := range members {
		for _, id := range left {
			if id == m.GetId() && failures[id] != "" {
				parts = append(parts, fmt.Sprintf("%s (%s): %s", m.GetName(), id, failures[id]))
			}
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "asked again until it answers, or is removed: " + strings.Join(parts, "; ")
}

func retiringText(all []fsm.RetiringCA) string {
	var parts []string
	for _, ca := range all {
		parts = append(parts, ca.Name+" until "+ca.Until.UTC().Format(time.RFC3339))
	}
	return "the CAs of before are trusted still: " + strings.Join(parts, ", ")
}

func keysText(keys []*fsmpb.ExposedKey) string {
	var parts []string
	for _, k := range keys {
		text := k.GetProvider() + " key " + k.GetKey()
		if k.GetKeyVersion() != "" {
			text += " version " + k.GetKeyVersion()
		}
		if k.GetHolder() != "" {
			text += " (a share of " + k.GetHolder() + ")"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

//nolint:gochecknoglobals // Immutable.
var descExposureLeft = prometheus.NewDesc("krypton_exposure_left",
	"What is left to do after an exposed MasterKey was replaced, by step; no step when there is nothing.", []string{"step"}, nil)

// exposureMetrics counts what is left, from this node's registry.
type exposureMetrics struct{ node *node.Node }

// Describe implements prometheus.Collector.
func (exposureMetrics) Describe(ch chan<- *prometheus.Desc) { ch <- descExposureLeft }

// Collect implements prometheus.Collector.
func (m exposureMetrics) Collect(ch chan<- prometheus.Metric) {
	v := m.node.Look().View
	x, ok := v.Exposure()
	if !ok || x.Exposure.GetDoneTimeMs() != 0 {
		return
	}
	for _, s := range exposureSteps(v, x, nil) {
		switch s.GetName() {
		case stepMasterKey, stepProviderKeys, stepBackups:
			continue // nothing is counted down
		}
		ch <- prometheus.MustNewConstMetric(descExposureLeft, prometheus.GaugeValue, float64(s.GetLeft()), s.GetName())
	}
}
