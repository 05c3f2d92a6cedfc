package sandbox

import "time"

// Message is one message as its recipient would see it. What a channel does not
// have is left out.
type Message struct {
	Channel string `json:"channel"`
	// ID is the provider's: SendGrid's sg_message_id, Twilio's sid, FCM's name.
	ID         string    `json:"id"`
	SendGridID string    `json:"sg_message_id,omitempty"`
	Call       string    `json:"call"`
	Delivery   string    `json:"delivery"`
	At         time.Time `json:"at"`
	// From and To are addresses of email, telephone numbers, or for To a device's
	// token. Of an SMS, From is a messaging service where one was to choose the number.
	From     string `json:"from"`
	FromName string `json:"from_name,omitempty"`
	To       string `json:"to"`
	ToName   string `json:"to_name,omitempty"`
	ReplyTo  string `json:"reply_to,omitempty"`
	// Subject and Text are the title and the body of a push's notification.
	Subject string `json:"subject"`
	Text    string `json:"text,omitempty"`
	HTML    string `json:"html,omitempty"`
	// TemplateID names the provider's template. The sandbox does not have it, so
	// such a message shows no content.
	TemplateID string `json:"template_id,omitempty"`
	// Substitutions have been applied to what is above.
	Headers       map[string]string `json:"headers,omitzero"`
	Substitutions map[string]string `json:"substitutions,omitzero"`
	CustomArgs    map[string]string `json:"custom_args,omitzero"`
	Categories    []string          `json:"categories,omitzero"`
	// Status, ErrorCode and Segments are an SMS's, now. What a webhook says of it
	// may come later.
	Status    string `json:"status,omitempty"`
	ErrorCode int    `json:"error_code,omitempty"`
	Segments  int    `json:"segments,omitempty"`
	// Data and Collapse are a push's: Collapse is what another push has to have in
	// common with it to replace it, its collapse key, tag or topic.
	Data     map[string]string `json:"data,omitempty"`
	Collapse []string          `json:"collapse,omitempty"`
}
