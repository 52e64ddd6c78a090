package transit

// UsesProxy reports whether requests may go through a proxy: the environment's
// is never used for loopback, so that no test on the wire would see it.
func (p *Provider) UsesProxy() bool { return p.client.transport.Proxy != nil }

// The pauses after refusals and failed renewals.
const (
	RefusalPause = refusalPause
	RenewalPause = renewalPause
)
