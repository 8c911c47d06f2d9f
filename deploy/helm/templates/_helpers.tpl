{{- define "upscale.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end -}}
{{- end }}

{{- /* Call with (list $ "api"). */}}
{{- define "upscale.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "upscale.labels" -}}
{{ include "upscale.selector" . }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end }}

{{- /* What the pods of both halves have in common. Call with (list $ .Values.api). */}}
{{- define "upscale.pod" -}}
{{- $root := index . 0 }}{{ $part := index . 1 }}
automountServiceAccountToken: {{ ne $root.Values.serviceAccount.name "" }}
{{- with $root.Values.serviceAccount.name }}
serviceAccountName: {{ . }}
{{- end }}
enableServiceLinks: false # their variables are not needed
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: data
    emptyDir: { sizeLimit: {{ $root.Values.cache.size }} }
  - name: tmp
    emptyDir: { sizeLimit: 1Gi }
{{- with $root.Values.weights.claim }}
  - name: weights
    persistentVolumeClaim: { claimName: {{ . }}, readOnly: true }
{{- end }}
{{- end }}

{{- /* Ends with the list of variables, so that a caller can add some. */}}
{{- define "upscale.container" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
volumeMounts:
  - { name: data, mountPath: /data }
  - { name: tmp, mountPath: /tmp }
{{- if .Values.weights.claim }}
  - { name: weights, mountPath: /data/weights, readOnly: true }
{{- end }}
{{- with .Values.bucket.secret }}
envFrom:
  - secretRef: { name: {{ . }} }
{{- end }}
env:
  - name: UPSCALE_DATABASE_URL
    valueFrom:
      secretKeyRef: { name: {{ required "database.secret is needed" .Values.database.secret }}, key: {{ .Values.database.key }} }
  - name: UPSCALE_BLOB_URL
    value: {{ required "bucket.url is needed: several machines can't share a folder" .Values.bucket.url | quote }}
{{- with .Values.bucket.endpoint }}
  - { name: UPSCALE_BLOB_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- with .Values.bucket.links }}
  - { name: UPSCALE_BLOB_LINKS, value: {{ . | quote }} }
{{- end }}
{{- range $name, $value := .Values.settings }}
  - { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}
