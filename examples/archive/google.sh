#!/bin/sh
# A bucket that keeps what is put for seven years, and rights for the function's pod to put and to read, no more.
#
#   BUCKET=kube-audit-archive PROJECT=my-project LOCATION=europe-west3 YEARS=7 ./google.sh
#
# Needs gcloud, and workload identity on the cluster. Lock the retention when it is right: for good, nobody can shorten it.
# Not run by the project's tests: read it first.
set -eu
: "${BUCKET:?}" "${PROJECT:?}" "${LOCATION:?}" "${YEARS:=7}"
number=$(gcloud projects describe "$PROJECT" --format 'value(projectNumber)')
pod="principal://iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/$PROJECT.svc.id.goog"
pod="$pod/subject/ns/kube-audit-function/sa/kube-audit-function"

gcloud storage buckets create "gs://$BUCKET" --project "$PROJECT" --location "$LOCATION" \
  --uniform-bucket-level-access --public-access-prevention --retention-period "${YEARS}y"
rules=$(mktemp)
cat > "$rules" <<RULES
{"rule": [
  {"action": {"type": "SetStorageClass", "storageClass": "NEARLINE"}, "condition": {"age": 30}},
  {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 1}},
  {"action": {"type": "Delete"}, "condition": {"age": $((YEARS * 366))}}
]}
RULES
gcloud storage buckets update "gs://$BUCKET" --lifecycle-file "$rules"
rm "$rules"
# objectCreator can put and not replace; a role of our own can read one object whose name is known, and list none.
gcloud iam roles create kubeAuditArchiveReader --project "$PROJECT" --permissions storage.objects.get
gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" --member "$pod" --role roles/storage.objectCreator
gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" --member "$pod" \
  --role "projects/$PROJECT/roles/kubeAuditArchiveReader"
echo "when it is right, for good: gcloud storage buckets update gs://$BUCKET --lock-retention-period"
