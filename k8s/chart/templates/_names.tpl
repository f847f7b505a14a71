{{- define "tandem.labels" -}}
{app.kubernetes.io/name: {{ . }}, app.kubernetes.io/part-of: tandem}
{{- end }}

{{- /* An image of ours: the one that is named, or the one of this version in the registry. */ -}}
{{- define "tandem.image" -}}
{{- $given := get .root.Values.images .key -}}
{{- $registry := .root.Values.registry | trimSuffix "/" -}}
{{- $given | default (printf "%s:%s" (list $registry .name | compact | join "/") .tag) -}}
{{- end }}

{{- define "tandem.modelsImage" -}}
{{- include "tandem.image" (dict "root" . "key" "models" "name" "tandem-models" "tag" "1") -}}
{{- end }}

{{- define "tandem.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "tandem.user" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tandem.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "tandem.spread" -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {app.kubernetes.io/name: {{ $ }}}
{{- end }}
{{- end }}

{{- /* A disruption budget for a single pod would only block draining its node. */ -}}
{{- define "tandem.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels: {app.kubernetes.io/part-of: tandem}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {app.kubernetes.io/name: {{ .name }}}
{{- end }}

{{- /* The container that copies the models from their image and verifies the checksums. */ -}}
{{- define "tandem.deliverModels" -}}
name: models
image: {{ include "tandem.modelsImage" . }}
imagePullPolicy: IfNotPresent
args: [/models]
{{- end }}

{{- define "tandem.modelsContainer" -}}
envFrom:
  - configMapRef: {name: tandem-models}
resources:
  requests: {cpu: 100m, memory: 64Mi, ephemeral-storage: 64Mi}
  limits: {cpu: "1", memory: 256Mi, ephemeral-storage: 1Gi}
securityContext:
  {{- include "tandem.unprivileged" . | nindent 2 }}
{{- end }}

{{- define "tandem.prometheus" }}
        - namespaceSelector:
            matchLabels: {kubernetes.io/metadata.name: {{ .Values.prometheus.namespace }}}
          podSelector:
            matchLabels: {app.kubernetes.io/name: prometheus}
{{- end }}
