package server

import (
	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

type approvalsServer struct {
	kryptonv1.UnimplementedApprovalsServer
	*calls
}
