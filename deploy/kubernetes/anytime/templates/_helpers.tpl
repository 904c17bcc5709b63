{{- define "anytime.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- /* What the schema of the values cannot say; with KServe the longest name is that of its Service, NAME-predictor. */ -}}
{{- define "anytime.check" -}}
{{- $name := include "anytime.name" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "the release's name makes %q, which no Service may be called: begin with a letter, and use a-z, 0-9 and -" $name) }}
{{- end }}
{{- $longest := ternary (printf "%s-predictor" $name) $name .Values.kserve.enabled }}
{{- if gt (len $longest) 63 }}
{{- fail (printf "the release's name makes a Service's name of %d characters, %q; at most 63" (len $longest) $longest) }}
{{- end }}
{{- if not .Values.image.repository }}
{{- fail "image.repository is not set, and the chart knows of no image: build one and push it (docs/operations.md), as in --set image.repository=registry.example/anytime" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.enabled needs ingress.host" }}
{{- end }}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) }}
{{- fail "gateway.enabled needs gateway.parentRefs, the Gateway to be reached by" }}
{{- end }}
{{- if eq (int .Values.settings.grpc_port) 8000 }}
{{- fail "settings.grpc_port is 8000, the port of HTTP" }}
{{- end }}
{{- if and .Values.settings.grpc_port (eq (int .Values.settings.grpc_port) (int .Values.service.port)) }}
{{- fail (printf "settings.grpc_port is %v, as service.port: the Service needs two" .Values.settings.grpc_port) }}
{{- end }}
{{- with .Values.gateway }}
{{- if and .grpcHostnames (not .enabled) }}
{{- fail "gateway.grpcHostnames needs gateway.enabled" }}
{{- end }}
{{- if and .grpcHostnames (not $.Values.settings.grpc_port) }}
{{- fail "gateway.grpcHostnames needs settings.grpc_port, as in 8001" }}
{{- end }}
{{- range $grpc := .grpcHostnames }}
{{- range $http := $.Values.gateway.hostnames | default (list "") }}
{{- $overlap := or (not $http) (eq $http $grpc) }}
{{- $overlap = or $overlap (and (hasPrefix "*." $http) (hasSuffix (trimPrefix "*" $http) $grpc)) }}
{{- $overlap = or $overlap (and (hasPrefix "*." $grpc) (hasSuffix (trimPrefix "*" $grpc) $http)) }}
{{- if $overlap }}
{{- fail (printf "gateway.grpcHostnames has %s, which gateway.hostnames has too (%s): a listener takes one kind of route for a name" $grpc ($http | default "every name")) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.bundles }}
{{- if not $.Values.bundle.claim }}
{{- fail "bundles needs bundle.claim, which holds their folders" }}
{{- end }}
{{- if $.Values.bundle.path }}
{{- fail "bundle.path is one bundle, bundles are several: leave one of them out" }}
{{- end }}
{{- $canaries := dict }}
{{- range $name, $folder := . }}
{{- if contains "@" $name }}
{{- $model := index (splitList "@" $name) 0 }}
{{- if not (hasKey $.Values.bundles $model) }}
{{- fail (printf "bundles has the canary %s and no %s beside it" $name $model) }}
{{- end }}
{{- if hasKey $canaries $model }}
{{- fail (printf "bundles has two canaries of %s" $model) }}
{{- end }}
{{- $_ := set $canaries $model true }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if gt (int .minReplicas) (int .maxReplicas) }}
{{- fail (printf "autoscaling.minReplicas is %v, over autoscaling.maxReplicas, %v" .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "anytime.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* Of the one Service by which pods are scraped: KServe gives its own the labels of the InferenceService. */ -}}
{{- define "anytime.scraped" -}}
app.kubernetes.io/component: metrics
{{- end }}

{{- define "anytime.labels" -}}
{{ include "anytime.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* As ANYTIME_BUNDLES is written: name=folder, a comma between two. */ -}}
{{- define "anytime.bundles" -}}
{{- $each := list }}
{{- range $name, $folder := .Values.bundles }}
{{- $each = append $each (printf "%s=/bundles/%s" $name $folder) }}
{{- end }}
{{- join "," $each }}
{{- end }}

{{- define "anytime.image" -}}
{{- $tag := .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion .Values.image.variant) -}}
{{ .Values.image.repository }}{{ if hasPrefix "sha256:" $tag }}@{{ else }}:{{ end }}{{ $tag }}
{{- end }}

{{- /* KServe makes a Service of the plain name itself. */ -}}
{{- define "anytime.service" -}}
{{ include "anytime.name" . }}{{ if .Values.kserve.enabled }}-metrics{{ end }}
{{- end }}

{{- define "anytime.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "anytime.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- /* Of the pod of `helm test`, which no Service may take for a server. */ -}}
{{- define "anytime.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* What the world may ask: neither metrics nor administration, such as /v2/repository/models, nor /docs. */ -}}
{{- define "anytime.paths" -}}
- {path: /, type: Exact}
- {path: /classify, type: Prefix}
- {path: /feedback, type: Exact}
- {path: /problems, type: Prefix}
- {path: /samples, type: Prefix}
- {path: /subnetworks, type: Exact}
- {path: /v2, type: Exact}
- {path: /v2/health, type: Prefix}
- {path: /v2/models, type: Prefix}
- {path: /v2/repository/index, type: Exact}
{{- end }}

{{- /* A pod reads its Secret once, at its start: a changed one makes new pods, at the next upgrade. */ -}}
{{- define "anytime.annotations" -}}
{{- $annotations := .Values.podAnnotations }}
{{- with .Values.adminKeySecret.name }}
{{- $secret := lookup "v1" "Secret" $.Release.Namespace . }}
{{- $annotations = merge (dict "checksum/admin-key" ($secret | dig "data" "" | toJson | sha256sum)) $annotations }}
{{- end }}
{{- with $annotations }}
annotations: {{ toJson . }}
{{- end }}
{{- end }}

{{- /* What a pod is made of: the same in a Deployment and in an InferenceService, which wants the container so named. */ -}}
{{- define "anytime.pod" -}}
serviceAccountName: {{ include "anytime.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ quote . }}
  {{- end }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ quote . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ quote . }}
{{- end }}
terminationGracePeriodSeconds: {{ add .Values.preStopSeconds (ceil .Values.settings.drain_s) 5 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "anytime.selector" . | nindent 8 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
containers:
  - name: {{ ternary "kserve-container" "server" .Values.kserve.enabled }}
    image: {{ include "anytime.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    ports:
      - {name: http, containerPort: 8000, protocol: TCP}
      - {name: private, containerPort: {{ .Values.settings.private_port }}, protocol: TCP}
      {{- with .Values.settings.grpc_port }}
      - {name: h2c, containerPort: {{ . }}, protocol: TCP} # KServe's name for gRPC
      {{- end }}
    env:
      {{- if .Values.kserve.enabled }}
      - {name: PROTOCOL, value: v2} # by which KServe knows what a container of one's own speaks
      {{- end }}
      {{- range $name, $value := .Values.settings }}
      - name: ANYTIME_{{ upper $name }}
        value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
      {{- end }}
      {{- range $name, $value := .Values.telemetry }}
      - name: OTEL_{{ upper $name }}
        value: {{ quote $value }}
      {{- end }}
      {{- with .Values.adminKeySecret }}{{ if .name }}
      - name: ANYTIME_ADMIN_KEY
        valueFrom:
          secretKeyRef: {name: {{ quote .name }}, key: {{ quote .key }}}
      {{- end }}{{ end }}
      {{- with .Values.keysSecret }}{{ if .name }}
      - name: ANYTIME_KEYS_FILE
        value: {{ printf "/keys/%s" .key | quote }}
      {{- end }}{{ end }}
      {{- if .Values.bundles }}
      - name: ANYTIME_BUNDLES
        value: {{ include "anytime.bundles" . | quote }}
      {{- else if .Values.bundle.claim }}
      - name: ANYTIME_BUNDLE_DIR
        value: {{ printf "/bundles/%s" .Values.bundle.path | quote }}
      {{- end }}
      {{- with .Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources: {{ toJson .Values.resources }}
    startupProbe: # three minutes to load the bundle and to warm up: on a GPU every batch size is captured
      httpGet: {path: /health/ready, port: http}
      periodSeconds: 1
      timeoutSeconds: 2
      failureThreshold: 180
    readinessProbe:
      httpGet: {path: /health/ready, port: http}
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 2
    livenessProbe: # slow to judge: a restart under load takes capacity away
      httpGet: {path: /health/live, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    lifecycle:
      preStop:
        sleep: {seconds: {{ .Values.preStopSeconds }}}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if .Values.bundle.claim }}
      - {name: bundles, mountPath: /bundles, readOnly: true}
      {{- end }}
      {{- if .Values.keysSecret.name }}
      - {name: keys, mountPath: /keys, readOnly: true}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  {{- with .Values.bundle.claim }}
  - name: bundles
    persistentVolumeClaim: {claimName: {{ quote . }}, readOnly: true}
  {{- end }}
  {{- with .Values.keysSecret.name }}
  - name: keys
    secret: {secretName: {{ quote . }}}
  {{- end }}
{{- end }}

{{- /* The queries to scale by. Without data they hold the scale: misses are 1 then, which asks for as many replicas as there are, and
       of several metrics the highest counts. A replica that answered Prometheus within the hour and does not now is taken to
       have as much to do as the others; one that has yet to answer first is not, or each new one would ask for a further. */ -}}
{{- define "anytime.pods" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ include "anytime.name" . }}-(predictor-)?[a-z0-9]+-[a-z0-9]+"
{{- end }}

{{- define "anytime.seen" -}}
count(up{ {{- include "anytime.pods" . -}} } == 1)
{{- end }}

{{- define "anytime.allOverSeen" -}}
(1 + (count(up{ {{- include "anytime.pods" . -}} } == 0 and max_over_time(up{ {{- include "anytime.pods" . -}} }[1h]) == 1) or vector(0)) / {{ include "anytime.seen" . }})
{{- end }}

{{- /* How many times faster than allowed requests miss their deadlines: over 1, more replicas are needed. While idle 0 / 0 is
       not over 0, and the query is 0 rather than NaN, which no scaler can use. */ -}}
{{- define "anytime.query.misses" -}}
{{- $received := printf "sum(rate(anytime_requests_total{outcome!~\"invalid|impossible|abandoned\",%s}[2m]))" (include "anytime.pods" .) -}}
(((sum(rate(anytime_requests_total{outcome!~"in_time|invalid|impossible|abandoned",{{ include "anytime.pods" . }}}[2m])) / {{ $received }} / {{ subf 1.0 .Values.autoscaling.attainment | printf "%.6f" }} > 0) or 0 * {{ $received }}) and {{ include "anytime.seen" . }}) or vector(1)
{{- end }}

{{- /* How many requests wait in the mean, by Little's law. The gauge anytime_queue_depth is of the instants of scrapes, and 0 at most of
       them even under overload: what could not be answered in time is refused before it waits. */ -}}
{{- define "anytime.query.queue" -}}
sum(rate(anytime_queue_time_seconds_sum{ {{- include "anytime.pods" . -}} }[2m])) * {{ include "anytime.allOverSeen" . }}
{{- end }}

{{- define "anytime.query.busy" -}}
sum(rate(anytime_run_latency_seconds_sum{ {{- include "anytime.pods" . -}} }[2m])) * {{ include "anytime.allOverSeen" . }}
{{- end }}
