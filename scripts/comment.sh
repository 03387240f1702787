#!/usr/bin/env bash
# comment.sh REPORT NUMBER [HEAD_SHA]: put a report on pull request NUMBER of $GITHUB_REPOSITORY with GitHub's own `gh`,
# in place of the one that this posted before. With HEAD_SHA, only if that is the pull request's newest commit: the
# number came from a fork's run and could be another's.
set -euo pipefail

report=$1 number=$2 head=${3:-}
repository="repos/${GITHUB_REPOSITORY:?}"
[[ $number =~ ^[0-9]+$ ]] || { echo "comment.sh: '$number' is not the number of a pull request" >&2; exit 1; }
marker=$(head -n 1 "$report")
[[ $marker == '<!-- affine report -->' ]] || { echo "comment.sh: $report is not a report" >&2; exit 1; }

if [[ -n $head ]]; then
  newest=$(gh api "$repository/pulls/$number" --jq .head.sha)
  [[ $newest == "$head" ]] || { echo "comment.sh: #$number is at $newest, not at $head; nothing posted"; exit 0; }
fi
mine='.[] | select((.body | startswith("<!-- affine report -->")) and .user.login == "github-actions[bot]") | .id'
id=$(gh api --paginate "$repository/issues/$number/comments?per_page=100" --jq "$mine" | sed -n 1p)
if [[ -n $id ]]; then
  gh api --silent --method PATCH "$repository/issues/comments/$id" --field "body=@$report"
  echo "updated comment $id on #$number"
else
  gh api --silent --method POST "$repository/issues/$number/comments" --field "body=@$report"
  echo "commented on #$number"
fi
