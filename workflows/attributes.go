package workflows

import (
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
)

// The search attributes, by which anybody finds a publication or the batch that
// carried a recipient:
//
//	FanfarePublication = "..." AND FanfareFirst <= 123 AND FanfareLast >= 123
var (
	attrPublication = temporal.NewSearchAttributeKeyKeyword("FanfarePublication")
	attrKey         = temporal.NewSearchAttributeKeyKeyword("FanfareKey")
	attrTopic       = temporal.NewSearchAttributeKeyKeyword("FanfareTopic")
	attrChannel     = temporal.NewSearchAttributeKeyKeyword("FanfareChannel")
	attrState       = temporal.NewSearchAttributeKeyKeyword("FanfareState")
	attrFirst       = temporal.NewSearchAttributeKeyInt64("FanfareFirst")
	attrLast        = temporal.NewSearchAttributeKeyInt64("FanfareLast")
)

// SearchAttributes are the attributes that the namespace must know.
func SearchAttributes() map[string]enumspb.IndexedValueType {
	all := map[string]enumspb.IndexedValueType{}
	for _, key := range []temporal.SearchAttributeKey{attrPublication, attrKey, attrTopic, attrChannel, attrState, attrFirst, attrLast} {
		all[key.GetName()] = key.GetValueType()
	}
	return all
}

// The states a batch shows in FanfareState.
const (
	batchSending = "sending"
	batchWaiting = "waiting"
	batchDone    = "done"
	batchFailed  = "failed"
)
