#!/bin/bash
# Starts a one-node Kubernetes on this machine: etcd, API server, controller
# manager, scheduler, containerd, kubelet, kube-proxy, CoreDNS. Run as root.
# A second run starts only what is not running. See README.md.
set -euo pipefail
. "$(dirname "$0")/env.sh"
[ "$(id -u)" = 0 ] || die "needs root"

# --- what the machine must have --------------------------------------------
need=()
have() { command -v "$1" >/dev/null || need+=("$2"); }
have containerd containerd; have runc runc; have iptables iptables
have ip iproute2; have conntrack conntrack; have nsenter util-linux
cni=; for d in /usr/lib/cni /opt/cni/bin; do [ -x $d/bridge ] && cni=$d && break; done
[ -n "$cni" ] || need+=(containernetworking-plugins)
if [ ${#need[@]} -gt 0 ]; then
	say "apt-get install ${need[*]}"
	apt-cache show "${need[0]}" >/dev/null 2>&1 || apt-get -o DPkg::Lock::Timeout=300 update -q >/dev/null || die "apt-get update failed"
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${need[@]}" >/dev/null || die "cannot install ${need[*]}"
	[ -n "$cni" ] || cni=/usr/lib/cni
fi
"$HERE/build.sh"

IP=${KUBE_NODE_IP:-$(ip -4 route get 192.0.2.254 2>/dev/null | grep -oP 'src \K\S+' || true)}
[ -n "$IP" ] || die "no IPv4 address to give the node: set KUBE_NODE_IP"

v1=1; [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] && v1=0

if [ ! -e "$KUBE_STATE/owned" ]; then
	# what another kubelet left or uses is not for down.sh to remove
	mkdir -p "$KUBE_STATE"; chmod 700 "$KUBE_STATE"
	for d in "$KUBE_KUBELET_DIR" /var/log/pods /var/log/containers; do
		[ -n "$(ls -A "$d" 2>/dev/null)" ] || echo "$d"
	done >"$KUBE_STATE/owned"
	grep -qx "$KUBE_KUBELET_DIR" "$KUBE_STATE/owned" || { rm "$KUBE_STATE/owned"; die "$KUBE_KUBELET_DIR is in use: set KUBE_KUBELET_DIR"; }
fi
mkdir -p "$KUBE_RUN/pids" "$KUBE_STATE"/{log,etcd,cni} "$KUBE_KUBELET_DIR" /var/log/pods /var/log/containers
[ -e "$PKI/admin.kubeconfig" ] || ktool pki -dir "$PKI" -node "$KUBE_NODE" -ip "$IP" -service-ip "$KUBE_SVC_IP" -server "https://127.0.0.1:$KUBE_PORT"

# --- processes ---------------------------------------------------------------
run() { # NAME COMMAND...: in the background, in a cgroup and a session of its own
	local name=$1 pid; shift
	alive "$name" >/dev/null && return 0
	(
		# One path in every hierarchy: kubelet's own statistics need that, and
		# what ends the shell that called us does not end the cluster.
		if [ $v1 = 1 ]; then
			for c in memory cpu cpuacct pids cpuset freezer devices blkio systemd; do
				d=/sys/fs/cgroup/$c/kube-test/$name
				[ -d /sys/fs/cgroup/$c ] && mkdir -p "$d" 2>/dev/null || continue
				if [ $c = cpuset ]; then
					for q in /sys/fs/cgroup/cpuset/kube-test "$d"; do
						for k in cpuset.cpus cpuset.mems; do [ -n "$(cat "$q/$k")" ] || cat "$(dirname "$q")/$k" >"$q/$k"; done
					done
				fi
				echo $BASHPID >"$d/cgroup.procs" || true
			done
		else
			mkdir -p "/sys/fs/cgroup/kube-test/$name" && echo $BASHPID >"/sys/fs/cgroup/kube-test/$name/cgroup.procs"
		fi
		exec setsid "$@" >>"$KUBE_STATE/log/$name.log" 2>&1 </dev/null
	) &
	pid=$!
	echo "$pid $(started_at $pid)" >"$KUBE_RUN/pids/$name"
}
await() { # SECONDS WHAT COMMAND...
	local end=$((SECONDS + $1 * ${KUBE_PATIENCE:-1})) what=$2; shift 2
	until "$@" >/dev/null 2>&1; do
		for n in "$KUBE_RUN"/pids/*; do
			alive "${n##*/}" >/dev/null || { tail -n 5 "$KUBE_STATE/log/${n##*/}.log" >&2; die "${n##*/} has ended (log: $KUBE_STATE/log/${n##*/}.log)"; }
		done
		[ $SECONDS -lt $end ] || die "waited too long for $what"
		sleep 0.2
	done
	say "$what"
}

# kernel settings, their old values kept for down.sh
if [ ! -e "$KUBE_RUN/sysctl.saved" ]; then
	# the last four are what kubelet sets by itself
	sysctl -e net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables \
		vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops >"$KUBE_RUN/sysctl.saved" 2>/dev/null || true
fi
modprobe -q br_netfilter overlay 2>/dev/null || true
sysctl -qw net.ipv4.ip_forward=1
sysctl -qew net.bridge.bridge-nf-call-iptables=1 || true

run etcd etcd --name n --data-dir "$KUBE_STATE/etcd" --unsafe-no-fsync --log-level warn \
	--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
	--listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster n=http://127.0.0.1:2380

audit=()
if [ "$KUBE_AUDIT" = 1 ]; then
	echo '{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}' >"$KUBE_STATE/audit-policy.json"
	audit=(--audit-policy-file "$KUBE_STATE/audit-policy.json" --audit-log-path "$KUBE_STATE/log/audit.log")
fi
run kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port "$KUBE_PORT" --advertise-address "$IP" \
	--service-cluster-ip-range "$KUBE_SVC_NET" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
	--client-ca-file "$PKI/ca.crt" --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
	--kubelet-client-certificate "$PKI/apiserver-kubelet-client.crt" --kubelet-client-key "$PKI/apiserver-kubelet-client.key" \
	--kubelet-certificate-authority "$PKI/ca.crt" --kubelet-preferred-address-types InternalIP \
	--service-account-issuer https://kubernetes.default.svc.cluster.local --service-account-key-file "$PKI/sa.pub" --service-account-signing-key-file "$PKI/sa.key" "${audit[@]}"

# containerd, and with it kubelet, in a mount namespace of their own where
# everything is shared, as systemd makes it elsewhere: hostPath volumes with
# mountPropagation work, and no mount of theirs is left behind. systemd also
# mounts tracefs, which hostPath volumes of it rely on.
cat >"$KUBE_STATE/containerd.toml" <<TOML
version = 2
root = "$KUBE_STATE/containerd"
state = "$KUBE_RUN/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$SOCK"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/kt/pause:1"
  # Without CAP_SYS_RESOURCE nobody may lower oom_score_adj, and kubelet asks
  # for -998 for every pod: ask for no less than containerd itself has.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$cni"
    conf_dir = "$KUBE_STATE/cni"
TOML
cat >"$KUBE_STATE/cni/10-kube-test.conflist" <<CNI
{"cniVersion":"0.4.0","name":"kube-test","plugins":[
 {"type":"bridge","bridge":"cni-kt0","isGateway":true,"ipMasq":true,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"$KUBE_RUN/ipam","ranges":[[{"subnet":"$KUBE_POD_NET"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
CNI
run containerd unshare --mount --propagation shared sh -c \
	'grep -q " /sys/kernel/tracing tracefs" /proc/mounts || mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"' sh \
	containerd --config "$KUBE_STATE/containerd.toml"
[ -e /run/containerd/containerd.sock ] || { mkdir -p /run/containerd && ln -sfn "$SOCK" /run/containerd/containerd.sock; }

await 60 "containerd answers" ctr -a "$SOCK" version
for t in "$KUBE_CACHE"/images/*.tar; do
	[ "$KUBE_DNS" = 0 ] && [ "${t##*/}" = coredns.tar ] && continue
	ctrk images import --digests=false "$t" >/dev/null || die "importing $t failed"
done
say "images imported"
await 120 "API server ready" kubectl get --raw /readyz

run kube-controller-manager kube-controller-manager --kubeconfig "$PKI/controller-manager.kubeconfig" --authentication-kubeconfig "$PKI/controller-manager.kubeconfig" \
	--authorization-kubeconfig "$PKI/controller-manager.kubeconfig" --leader-elect=false --use-service-account-credentials \
	--service-account-private-key-file "$PKI/sa.key" --root-ca-file "$PKI/ca.crt" --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key" --bind-address 127.0.0.1
run kube-scheduler kube-scheduler --kubeconfig "$PKI/scheduler.kubeconfig" --authentication-kubeconfig "$PKI/scheduler.kubeconfig" \
	--authorization-kubeconfig "$PKI/scheduler.kubeconfig" --leader-elect=false --bind-address 127.0.0.1

cat >"$KUBE_STATE/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://$SOCK
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
clusterDomain: cluster.local
clusterDNS: [$KUBE_DNS_IP]
containerLogMaxSize: $KUBE_LOG_MAX_SIZE
containerLogMaxFiles: $KUBE_LOG_MAX_FILES
imageGCHighThresholdPercent: 100 # off: an image deleted here could not be pulled again
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
oomScoreAdj: 0                   # -999 needs CAP_SYS_RESOURCE
maxOpenFiles: $(ulimit -Hn | sed s/unlimited/1000000/)
nodeStatusUpdateFrequency: 5s
YAML
run kubelet nsenter --mount -t "$(alive containerd)" kubelet --config "$KUBE_STATE/kubelet.yaml" --kubeconfig "$PKI/kubelet.kubeconfig" \
	--root-dir "$KUBE_KUBELET_DIR" --hostname-override "$KUBE_NODE" --node-ip "$IP" --v 2

cat >"$KUBE_STATE/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $KUBE_POD_NET
hostnameOverride: $KUBE_NODE
oomScoreAdj: 0
clientConnection: {kubeconfig: $PKI/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s} # leave the host's alone
metricsBindAddress: 127.0.0.1:10249
YAML
run kube-proxy kube-proxy --config "$KUBE_STATE/proxy.yaml"

await 120 "node registered" kubectl get node "$KUBE_NODE"
await 120 "node Ready" kubectl wait --for=condition=Ready "node/$KUBE_NODE" --timeout=1s
await 60 "default service account" kubectl -n default get serviceaccount default
if [ "$KUBE_DNS" != 0 ]; then
	sed "s/@DNS_IP@/$KUBE_DNS_IP/" "$HERE/coredns.yaml" | kubectl apply -f - >/dev/null
	await 120 "CoreDNS ready" kubectl -n kube-system wait --for=condition=Available deployment/coredns --timeout=1s
fi
cat >&2 <<END
cluster up: export KUBECONFIG=$KUBECONFIG PATH=$BIN:\$PATH
logs: $KUBE_STATE/log; an image of your own: ktool image -name localhost/kt/agent:dev agent:/agent | ctr -a $SOCK -n k8s.io images import -
END
