#!/bin/sh
# A bucket that keeps what is put for seven years, and an identity for the function's pod that can put and read, no more.
#
#   BUCKET=kube-audit-archive REGION=eu-central-1 CLUSTER=prod YEARS=7 ./aws.sh
#
# Needs the AWS CLI, rights to make buckets and roles, and the EKS Pod Identity agent in the cluster. COMPLIANCE mode is
# for good: nobody can shorten it. Not run by the project's tests: read it first.
set -eu
: "${BUCKET:?}" "${REGION:?}" "${CLUSTER:?}" "${YEARS:=7}"
role=kube-audit-archive-$CLUSTER

aws s3api create-bucket --bucket "$BUCKET" --region "$REGION" --object-lock-enabled-for-bucket \
  --create-bucket-configuration "LocationConstraint=$REGION"
aws s3api put-public-access-block --bucket "$BUCKET" --public-access-block-configuration \
  BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
aws s3api put-object-lock-configuration --bucket "$BUCKET" --object-lock-configuration \
  "{\"ObjectLockEnabled\":\"Enabled\",\"Rule\":{\"DefaultRetention\":{\"Mode\":\"COMPLIANCE\",\"Years\":$YEARS}}}"
aws s3api put-bucket-lifecycle-configuration --bucket "$BUCKET" --lifecycle-configuration "{\"Rules\":[{
  \"ID\":\"archive\",\"Status\":\"Enabled\",\"Filter\":{\"Prefix\":\"\"},
  \"AbortIncompleteMultipartUpload\":{\"DaysAfterInitiation\":1},
  \"Transitions\":[{\"Days\":30,\"StorageClass\":\"STANDARD_IA\"}],
  \"Expiration\":{\"Days\":$((YEARS * 366))}}]}"

aws iam create-role --role-name "$role" --assume-role-policy-document '{"Version":"2012-10-17","Statement":[{
  "Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]}]}'
# To put and to read; without s3:ListBucket an absent object is 403, which the function expects.
aws iam put-role-policy --role-name "$role" --policy-name archive --policy-document "{\"Version\":\"2012-10-17\",
  \"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"s3:PutObject\",\"s3:GetObject\"],
  \"Resource\":\"arn:aws:s3:::$BUCKET/*\"}]}"
account=$(aws sts get-caller-identity --query Account --output text)
aws eks create-pod-identity-association --cluster-name "$CLUSTER" --namespace kube-audit-function \
  --service-account kube-audit-function --role-arn "arn:aws:iam::$account:role/$role"
